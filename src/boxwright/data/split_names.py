"""Canonical names of splits (train, val, test) for other spellings in files and folders."""

import re
from collections.abc import Iterable

STANDARD = ("train", "val", "test")
ALIASES = {
    "training": "train", "valid": "val", "validate": "val", "validation": "val", "dev": "val", "testing": "test",
}  # fmt: skip


def canonical_name(split: str) -> str:
    """The canonical name of a split. Example: train2017 -> train, Validation -> val."""
    name = re.sub(r"_?20\d\d$", "", split)
    lower = ALIASES.get(name.lower(), name.lower())
    return lower if lower in STANDARD else name


def canonical_names(found: Iterable[str]) -> list[str]:
    """Canonical names, except if several splits share one; train, val, test first, then others sorted."""
    originals = list(found)
    canonical = [canonical_name(name) for name in originals]
    names = [new if canonical.count(new) == 1 else old for old, new in zip(originals, canonical, strict=True)]
    return sorted(names, key=lambda name: (STANDARD.index(name) if name in STANDARD else len(STANDARD), name))
