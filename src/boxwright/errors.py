"""The one exception whose text is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something the user gave us cannot be used.

    The message is one line: file, place, what was found, what was needed, what to do. The command line prints it
    and exits with status 2; it never shows a traceback for it.
    """
