"""Routes of the page, and errors as one line of JSON."""

import asyncio
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from boxwright import files, json_text
from boxwright.errors import InputError, one_line
from boxwright.images.windows import Window
from boxwright.look.audit import Audit
from boxwright.look.catalog import Catalog, Filters
from boxwright.look.gate import JSON, error_response
from boxwright.look.images import ImageReader, stamp
from boxwright.look.repair import Repair
from boxwright.look.runs import Runs
from boxwright.look.view import View
from boxwright.serve.bodies import Bodies
from boxwright.serve.connections import ASGI
from boxwright.serve.request_error import RequestError

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".json": JSON,
}  # fmt: skip
MAX_BODY = 1 << 20  # bytes of a request
BODY_SECONDS = 10.0
MAX_LIMIT = 500  # images per response
NO_STORE = {"cache-control": "no-store"}
REVALIDATED = {"cache-control": "private, no-cache"}


@dataclass(slots=True)
class State:
    """State that the routes share. draining: whether the server is about to stop."""

    catalog: Catalog
    runs: Runs
    audit: Audit | None
    view: View
    repair: Repair
    images: ImageReader = field(default_factory=ImageReader)
    bodies: Bodies = field(default_factory=lambda: Bodies(MAX_BODY, "a JSON object", {}))
    draining: bool = False

    @classmethod
    def open(cls, catalog: Catalog, runs: Sequence[str] = (), audit: str | None = None) -> "State":
        """Open runs and audit. Raises InputError if one cannot be read."""
        found = Runs(runs)
        findings = None if audit is None else Audit(audit, catalog)
        repair = Repair(catalog)
        return cls(catalog, found, findings, View(catalog, found, findings, repair), repair)


def create_app(state: State) -> ASGI:
    """The application, for paths without the token (`gate.Gate`)."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_page(app)
    _add_lists(app, state)
    _add_images(app, state)
    _add_changes(app, state)
    for error in (RequestError, InputError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, _error_response)
    return app


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    def index(request: Request) -> Response:
        return _page(request, "index.html")

    @app.get("/page/{name}")
    def page(request: Request, name: str) -> Response:
        return _page(request, name)


def _add_lists(app: FastAPI, state: State) -> None:
    @app.get("/api/set")
    def describe() -> Response:
        return _json(state.view.describe())

    @app.get("/api/images")
    def images(
        split: str = "",
        name: Annotated[str, Query(alias="class")] = "",
        size: str = "",
        status: str = "",
        run: str = "",
        min_score: float = 0.0,
        finding: str = "",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    ) -> Response:
        filters = Filters(split, name, size)
        return _json(state.view.images(filters, status, run, min_score, finding, offset, limit))

    @app.get("/api/runs")
    def runs() -> Response:
        return _json({"runs": state.runs.table()})

    @app.get("/api/curves")
    def curves(after: str = "") -> Response:
        return _json(state.runs.curves(after))


def _add_images(app: FastAPI, state: State) -> None:
    @app.get("/api/images/{image}")
    def image(image: int, run: Annotated[list[str] | None, Query()] = None, min_score: float = 0.0) -> Response:
        return _json(state.view.image(image, run or (), min_score))

    @app.get("/api/images/{image}/thumbnail")
    def thumbnail(request: Request, image: int) -> Response:
        path = state.view.path(image)
        return _tagged(request, str(stamp(path)), lambda: state.images.thumbnail(path))

    @app.get("/api/images/{image}/window")
    def window(
        request: Request, image: int, x: int, y: int, width: Annotated[int, Query(ge=1)],
        height: Annotated[int, Query(ge=1)], scale: float = 1.0,
    ) -> Response:  # fmt: skip
        path, region = state.view.path(image), Window(x, y, width, height)
        return _tagged(request, f"{stamp(path)} {region} {scale}", lambda: state.images.window(path, region, scale))


def _add_changes(app: FastAPI, state: State) -> None:
    @app.post("/api/images/{image}/objects")
    async def objects(request: Request, image: int) -> Response:
        values = await _body(request, state)
        return _json(await asyncio.to_thread(state.view.change, image, values))

    @app.post("/api/findings/{finding}")
    async def findings(request: Request, finding: int) -> Response:
        values = await _body(request, state)
        if state.audit is None:
            raise RequestError(404, "findings: there are none, since `boxwright look` was started without --audit")
        return _json(await asyncio.to_thread(state.audit.set_state, finding, values.get("state")))


async def _body(request: Request, state: State) -> json_text.JsonObject:
    """The JSON object of a request."""
    async with state.bodies.read(request, asyncio.get_running_loop().time() + BODY_SECONDS) as body:
        values = json_text.parse(bytes(body), "body")
    if not isinstance(values, dict):
        raise InputError(f"body: found a {type(values).__name__}, needed an object")
    return values


def _page(request: Request, name: str) -> Response:
    """A file of the page. Only names in the folder's listing are allowed, so that no name leads out of it."""
    if name not in {file.name for file in PAGE.glob("*.*")}:
        raise RequestError(404, f"page: there is no '{name[:60]}'")
    content = files.read_bytes(PAGE / name)
    kind = TYPES.get(Path(name).suffix, "application/octet-stream")
    return _tagged(request, hashlib.sha256(content).hexdigest(), lambda: content, kind)


def _tagged(request: Request, tag: str, make: Any, kind: str = "image/jpeg") -> Response:
    """Response with the content of `make`, unless the browser has it cached. tag: identifies the content."""
    headers = REVALIDATED | {"etag": f'"{hashlib.sha256(tag.encode("utf-8", "surrogateescape")).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(None, 304, headers)
    return Response(make(), 200, headers, kind)


def _json(tree: object) -> Response:
    return Response(json_text.dumps(_finite(tree)), 200, NO_STORE, JSON)


def _finite(value: Any) -> Any:
    """The value with null instead of infinite and NaN numbers, which JSON does not support."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


async def _error_response(request: Request, error: Exception) -> Response:
    """Response for an exception of a route. uvicorn logs unexpected exceptions with their traceback."""
    match error:
        case RequestError():
            response = error_response(error.status, error.line)
            response.headers.update(error.headers)
            return response
        case InputError():
            return error_response(400, one_line(str(error)))
        case RequestValidationError():
            first = error.errors()[0]
            return error_response(400, one_line(f"{first['loc'][-1]}: {first['msg']}"))
        case HTTPException():
            return error_response(error.status_code, one_line(str(error.detail)))
        case _:
            return error_response(500, "internal error; the terminal has the reason")
