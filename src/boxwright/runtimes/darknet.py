"""Darknet's .weights, which hold numbers and no graph."""

from boxwright.runtimes.base.target import Target
from boxwright.weights import darknet

TARGET = Target(suffix=".weights", checked_by="torch", write_weights=lambda path, model, _: darknet.write(path, model))
