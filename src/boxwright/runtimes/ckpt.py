"""MindSpore's .ckpt with the names of its zoo: weights without a graph."""

from boxwright.runtimes.base.target import Target
from boxwright.weights import mindspore

TARGET = Target(suffix=".ckpt", checked_by="torch", write_weights=mindspore.write)
