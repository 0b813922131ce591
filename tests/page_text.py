"""The pages of the project, and the commands in their blocks of shell commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
NAMES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


def blocks(text: str, language: str = "bash") -> list[str]:
    """The contents of the fenced blocks of a language, in order."""
    return [content for found, content in _BLOCK.findall(text) if found == language]


def without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)


def lines(text: str) -> list[str]:
    """The lines of all blocks of shell commands, without comments, continued ones joined; a script with #! is one."""
    found: list[str] = []
    for block in blocks(text):
        joined = [block] if block.startswith("#!") else block.replace("\\\n", " ").splitlines()
        found += filter(None, (re.sub(r"\s+# .*", "", line) for line in joined))
    return found
