"""Data sets checked, converted, and cut into tiles, crops and tensors."""
