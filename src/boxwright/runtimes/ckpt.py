"""MindSpore's .ckpt under the names of its zoo, which hold numbers and no graph."""

from boxwright.runtimes.base.target import Target
from boxwright.weights import mindspore

TARGET = Target(suffix=".ckpt", checked_by="torch", write_weights=mindspore.write)
