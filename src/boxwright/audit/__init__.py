"""Label errors, near-duplicates and differences between the splits of a data set."""
