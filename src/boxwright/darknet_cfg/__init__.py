"""Darknet's .cfg files: the text as sections, and the meaning of each section. Does not import torch."""
