"""Requests to the application of `boxwright look`, without a network."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from boxwright.look.app import State, create_app
from boxwright.look.catalog import Catalog
from boxwright.look.gate import Gate

PORT, TOKEN = 4321, "a-token"


@dataclass
class Answer:
    status: int
    content: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.content)


class Client:
    """The page of a set, as a browser on this machine asks for it."""

    def __init__(self, data: Path | str, *runs: Path | str, **options: Any) -> None:
        audit = options.pop("audit", None)
        self.state = State.open(Catalog(str(data), **options), [str(run) for run in runs], audit and str(audit))
        self.app = Gate(create_app(self.state), TOKEN, PORT)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """A request to a complete path. In names of headers _ stands for -."""
        given = {"host": f"127.0.0.1:{PORT}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", PORT),
        }  # fmt: skip
        sent: list[Any] = []
        chunks = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return chunks.pop(0) if chunks else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), found)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a route."""
        answer = self.ask("GET", f"/{TOKEN}/api/{path}?{urlencode(query, doseq=True)}")
        assert answer.status == 200, answer
        return answer.json

    def post(self, path: str, values: Any, **headers: str) -> Answer:
        given = {"x_boxwright": "1", "content_type": "application/json"} | headers
        return self.ask("POST", f"/{TOKEN}/api/{path}", json.dumps(values).encode(), **given)

    def change(self, image: int, *changes: dict[str, Any], revision: str | None = None) -> Answer:
        """Changes of objects of an image as it is now, or as it was at a revision."""
        now = self.get(f"images/{image}")["revision"] if revision is None else revision
        return self.post(f"images/{image}/objects", {"revision": now, "changes": list(changes)})
