"""Read the bodies of requests, within limits of size and time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.requests import Request

from boxwright.serve.request_error import RequestError

CLOSE = {"connection": "close"}  # for responses before the whole body was read
HINTS = {408: ", or raise --timeout", 413: ", or raise --max-mb"}  # the options of `serve`
TOTAL = 8  # memory limit of all bodies, in bodies of the largest size


class Bodies:
    """Reads bodies.

    Args:
        limit: Bytes of one body; all bodies in memory have at most TOTAL times as many.
        needed: Description of a body, for messages.
        hints: HTTP status -> end of its message.
    """

    def __init__(self, limit: int, needed: str = "an image", hints: Mapping[int, str] = HINTS) -> None:
        self.limit, self.needed, self.hints = limit, needed, hints
        self._held = 0  # bytes

    @asynccontextmanager
    async def read(self, request: Request, deadline: float) -> AsyncIterator[bytearray]:
        """Body of a request; it counts as in memory until the block ends.

        Raises RequestError: it is empty (400), slower than `deadline` in seconds of the event loop (408), too large
        (413), compressed (415), or there are too many others (503).
        """
        if "content-encoding" in request.headers:
            raise RequestError(415, "content-encoding: found a compressed body, needed a plain one", CLOSE)
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > self.limit:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in request.stream():
                    self._add(body, chunk)
            if not body:
                raise RequestError(400, f"body: found none, needed {self.needed}")
            yield body
        except TimeoutError as error:
            line = f"the body did not arrive in time; send it faster{self.hints.get(408, '')}"
            raise RequestError(408, line, CLOSE) from error
        finally:
            self._held -= len(body)

    def _add(self, body: bytearray, chunk: bytes) -> None:
        if len(body) + len(chunk) > self.limit:
            raise self._too_large()
        if self._held + len(chunk) > TOTAL * self.limit:
            raise RequestError(503, "too many large requests at once; try again in 1 s", CLOSE | {"retry-after": "1"})
        body += chunk
        self._held += len(chunk)

    def _too_large(self) -> RequestError:
        hint = self.hints.get(413, "")
        return RequestError(413, f"body: needed at most {self.limit} bytes; send a smaller one{hint}", CLOSE)
