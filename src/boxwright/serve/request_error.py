"""Exception for a request that is answered with an error."""

from collections.abc import Mapping

from boxwright.errors import one_line


class RequestError(Exception):
    """A request is answered with an error.

    Attributes:
        status: The HTTP status, from 400 on.
        line: Message for the user, at most 200 characters.
        headers: Headers of the response.
    """

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(one_line(line))
        self.status, self.line, self.headers = status, one_line(line), dict(headers or {})
