"""What the verbs print."""

from boxwright.errors import printable


def say(result: object) -> None:
    """Print a result, with what a terminal would act on, such as a picture's name might hold, shown as escapes."""
    print("\n".join(map(printable, str(result).split("\n"))))
