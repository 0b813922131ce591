"""Access control: token, host and origin checks."""

import hmac
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from fastapi import Response

from boxwright import json_text
from boxwright.serve.connections import ASGI, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
JSON = "application/json"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Gate:
    """ASGI middleware: rejects requests without the token, for another host, or from other sites; adds security
    headers.

    The token is the first part of the path, so other sites in the same browser cannot send valid requests. The host
    check prevents DNS rebinding, and the required header prevents cross-site forms.

    Args:
        app: The application, which gets paths without the token.
        token: The token.
        port: Port of the server.
    """

    def __init__(self, app: ASGI, token: str, port: int) -> None:
        self.app, self.prefix = app, f"/{token}/".encode()
        self.hosts = {f"{host}:{port}".encode() for host in HOSTS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan or web socket, which uvicorn does not send here
            raise RuntimeError(f"found {scope['type']}, needed http")

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                further = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(item for item in further if item[0] not in names)]
            await send(message)

        status, line = self._fault(scope)
        if line:
            await error_response(status, line)(scope, receive, answer)
            return
        path = scope["path"][len(self.prefix) - 1 :]
        # HEAD is handled as GET; uvicorn, which has the original scope, omits the body.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self.app({**scope, "path": path, "raw_path": path.encode(), "method": method}, receive, answer)

    def _fault(self, scope: Scope) -> tuple[int, str]:
        """Status and reason for rejecting a request; "" if it is accepted."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return HTTPStatus.FORBIDDEN, "host: needed the address that `boxwright look` has printed"
        start = scope["path"].encode("utf-8", "surrogateescape")[: len(self.prefix)]
        if not hmac.compare_digest(start, self.prefix):
            return HTTPStatus.FORBIDDEN, "token: needed the address that `boxwright look` has printed, with its token"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "needed GET or POST"
        if scope["method"] != "POST":
            return HTTPStatus.OK, ""
        origins = {b"http://" + host for host in self.hosts}
        if headers.get(b"x-boxwright") != [b"1"] or not origins.issuperset(headers.get(b"origin", [])):
            return HTTPStatus.FORBIDDEN, "needed the header X-Boxwright: 1, from a page of this server"
        if [value.partition(b";")[0].strip().lower() for value in headers.get(b"content-type", [])] != [JSON.encode()]:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"content-type: needed {JSON}"
        return HTTPStatus.OK, ""


def error_response(status: int, line: str) -> Response:
    """Error response, one line of JSON. line: as from `errors.one_line`."""
    return Response(json_text.dumps({"error": line}), status, {"cache-control": "no-store"}, JSON)
