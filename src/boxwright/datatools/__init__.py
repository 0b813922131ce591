"""Tools that check, convert and split data sets, and cut them into tiles and crops."""
