"""The one exception whose text is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something the user gave us cannot be used.

    The message is one printable line: file, place, what was found, what was needed, what to do. The command line prints
    it and exits with status 2; it never shows a traceback for it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` on one line, with what a terminal would act on shown as escapes: control characters, line breaks,
    invisible and reordering characters, and bytes of file names that are no text."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return letter
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name, as os.fsdecode gives it
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()
