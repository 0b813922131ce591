"""The alternate signal stack of this thread."""

import ctypes
from typing import ClassVar


class Stack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_: ClassVar = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack() -> int | None:
    """Address of the thread's signal stack; None if it has none."""
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.start
