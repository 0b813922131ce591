"""The exception for invalid user input."""

import re

MAX_LINE = 200  # characters of a message
MIN_PATH = 16  # paths are shortened to this many characters before the whole line is shortened
MIN_WORD = 40  # the same for other words, such as names
# of an address: user and password; the query, which may hold a signature
SECRETS = (re.compile(r"(://)[^/\s@]*@"), re.compile(r"(https?://[^\s?]*)\?\S*?(?=[:;,)'\"]?(?:\s|$))"))


class InputError(ValueError):
    """The user's input is invalid.

    The message is one printable line: file, location, what was found, what was needed, what to do. The command line
    prints it without a traceback, by `one_line`, and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class MissingSplitError(InputError):
    """A data set has no split of that name."""


_titles: dict[str, str] = {}  # path -> its title


def set_title(path: str, title: str) -> None:
    """Show `title` in messages in place of `path`, a path in the cache that the user did not enter."""
    _titles[path] = title


def titled(text: str) -> str:
    """`text` with paths replaced by their titles and nothing escaped, for file names in results."""
    for path, title in _titles.items():
        if path in text:
            text = text.replace(path, title)
    return text


def printable(text: str) -> str:
    """`text` on one line, with escapes for control characters, line breaks, invisible and bidirectional characters, and
    undecodable bytes of file names. Paths are replaced by their titles; addresses lose user, password and query."""
    text = titled(text)
    if "://" in text:
        for secret in SECRETS:
            text = secret.sub(r"\1", text)
    return text if text.isprintable() else "".join(map(_escape, text))


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """`printable(text)` in at most `limit` characters. Long words are shortened first, paths more than others."""
    text = printable(text)
    if len(text) <= limit:
        return text
    words = text.split(" ")
    for length in range(limit, MIN_PATH - 1, -1):
        short = " ".join(shortened(word, length if "/" in word else max(length, MIN_WORD)) for word in words)
        if len(short) <= limit:
            return short
    return shortened(short, limit, end=1 / 3)


def shortened(text: str, limit: int, end: float = 2 / 3) -> str:
    """`text` in at most `limit` characters. end: fraction kept from its end, the most telling part of a path."""
    last = int((limit - 3) * end)
    return text if len(text) <= limit else f"{text[: limit - 3 - last]}...{text[-last:]}"


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a surrogate that os.fsdecode made of an undecodable byte
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
