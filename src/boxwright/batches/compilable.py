"""Augmentation functions that `train.compile` compiles: they take tensors and numbers, and process a chunk's pixels.

Their random numbers are drawn outside, by NumPy.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[..., Any]

FUNCTIONS: list[Function] = []
_replaced: ContextVar[Mapping[Function, Function]] = ContextVar("_replaced")


def compilable(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator that lets `replaced` call another function in place of the decorated one."""
    FUNCTIONS.append(function)

    @wraps(function)
    def call(*args: P.args, **words: P.kwargs) -> R:
        chosen: Callable[P, R] = _replaced.get({}).get(function, function)
        return chosen(*args, **words)

    return call


@contextmanager
def replaced(by: Callable[[Function], Function]) -> Iterator[None]:
    """Call `by(function)` for each compilable function in this thread."""
    token = _replaced.set({function: by(function) for function in FUNCTIONS})
    try:
        yield
    finally:
        _replaced.reset(token)
