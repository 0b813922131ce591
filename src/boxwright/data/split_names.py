"""Splits are asked for as train, val, test; files and folders spell them in other ways, too."""

import re
from collections.abc import Iterable

FIRST = ("train", "val", "test")


def canonical_name(split: str) -> str:
    """train2017 -> train, valid -> val."""
    name = re.sub(r"20\d\d$", "", split)
    return "val" if name in {"valid", "validation"} else name


def canonical_names(found: Iterable[str]) -> list[str]:
    """Their plain names where that is clear: train, val, test first, then others by name."""
    spelled = list(found)
    short = [canonical_name(name) for name in spelled]
    names = [brief if short.count(brief) == 1 else name for name, brief in zip(spelled, short, strict=True)]
    return sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
