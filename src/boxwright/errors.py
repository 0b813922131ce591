"""The exception for invalid user input."""

MAX_LINE = 200  # characters of a message
MIN_WORD = 16  # characters that are left of a word before the whole is shortened


class InputError(ValueError):
    """The user's input is invalid.

    The message is one printable line: file, location, what was found, what was needed, what to do. The command line
    prints it without a traceback and exits with status 2. As text it has at most `MAX_LINE` characters.

    Attributes:
        message: The line in its full length.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
        self.message: str = self.args[0]

    def __str__(self) -> str:
        return one_line(self.message)


class MissingSplitError(InputError):
    """A data set has no split of that name."""


def printable(text: str) -> str:
    """`text` on one line, with escapes for control characters, line breaks, invisible and bidirectional characters, and
    undecodable bytes of file names."""
    return text if text.isprintable() else "".join(map(_escape, text))


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """`printable(text)` in at most `limit` characters. The longest words, such as paths, are shortened first."""
    text = printable(text)
    if len(text) <= limit:
        return text
    words = text.split(" ")
    room = limit - len(words) + 1  # without the spaces
    lengths = range(limit, MIN_WORD, -1)
    longest = next((length for length in lengths if sum(min(len(word), length) for word in words) <= room), MIN_WORD)
    return shortened(" ".join(shortened(word, longest) for word in words), limit, end=1 / 3)


def shortened(text: str, limit: int, end: float = 2 / 3) -> str:
    """`text` in at most `limit` characters. end: the fraction from its end, which says most in a path."""
    last = int((limit - 3) * end)
    return text if len(text) <= limit else f"{text[: limit - 3 - last]}...{text[-last:]}"


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a surrogate that os.fsdecode made of an undecodable byte
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
