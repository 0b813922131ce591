"""The exception for invalid user input."""


class InputError(ValueError):
    """The user's input is invalid.

    The message is one printable line: file, location, what was found, what was needed, what to do. The command line
    prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class MissingSplitError(InputError):
    """A data set has no split of that name."""


def printable(text: str) -> str:
    """`text` on one line, with escapes for control characters, line breaks, invisible and bidirectional characters, and
    undecodable bytes of file names."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a surrogate that os.fsdecode made of an undecodable byte
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
