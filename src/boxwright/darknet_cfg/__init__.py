"""Darknet's .cfg files: the text as sections, and what each section says. Does not import torch."""
