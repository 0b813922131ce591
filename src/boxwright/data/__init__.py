"""Labeled data sets in columns, and the interface of their layouts (implemented in `formats`)."""
