"""The web application: routes, authorization, and errors as one line of JSON."""

import asyncio
import hmac
from collections.abc import Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from boxwright import json_text
from boxwright.errors import InputError, one_line
from boxwright.json_text import JsonObject
from boxwright.serve import inference
from boxwright.serve.batcher import BusyError, PredictionError, TooLargeError
from boxwright.serve.bodies import Bodies
from boxwright.serve.connections import ASGI, Receive, Scope, Send
from boxwright.serve.forms import file_of_multipart
from boxwright.serve.metrics import CONTENT_TYPE, Metrics
from boxwright.serve.models import Model, chosen
from boxwright.serve.request_error import RequestError

T = TypeVar("T")

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")  # need no token, since probes have none
QUERY = ("model", "threshold", "iou", "class", "top_k", "draw")  # parameters of /predict
FLAGS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(slots=True)
class State:
    """State that the routes share.

    Attributes:
        models: Models by name.
        metrics: Metrics of the server.
        bodies: Reads the requests.
        timeout: Seconds for a request, from its head to its answer.
        token: Bearer token; None for none.
        draining: Whether the server is about to stop: connections close after their answer.
    """

    models: Mapping[str, Model]
    metrics: Metrics
    bodies: Bodies
    timeout: float
    token: str | None = None
    draining: bool = False

    def ready(self) -> bool:
        return not self.draining and all(model.ready for model in self.models.values())

    def deadline(self) -> float:
        """Deadline of a request that arrives now, in seconds of the event loop."""
        return asyncio.get_running_loop().time() + self.timeout


def create_app(state: State) -> ASGI:
    """The application. It counts every response in `state.metrics`."""
    app = FastAPI(title="boxwright", docs_url=None, redoc_url=None, openapi_url=None)
    _add_prediction(app, state)
    _add_inference(app, state)

    @app.get("/metrics")
    async def metrics() -> Response:
        queued = {name: len(model.batcher) for name, model in state.models.items()}
        return Response(state.metrics.text(queued), media_type=CONTENT_TYPE)

    for error in (RequestError, InputError, BusyError, PredictionError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(error, _error_response)
    return _Gate(app, state)


def _add_prediction(app: FastAPI, state: State) -> None:
    @app.post("/predict")
    async def predict(request: Request) -> Response:
        """Predict an image, from the body or a form's file. Returns detections or classes, or with draw=1 a JPEG."""
        deadline, query = state.deadline(), request.query_params
        if unknown := query.keys() - set(QUERY):
            raise RequestError(400, f"query: found '{min(unknown)[:40]}', needed some of {', '.join(QUERY)}")
        if repeated := next((name for name in query if name != "class" and len(query.getlist(name)) > 1), None):
            raise RequestError(400, f"{repeated}: found {len(query.getlist(repeated))} values, needed one")
        model = _model(request, state, query.get("model"))
        draw = query.get("draw", "0")
        if draw not in FLAGS:
            raise RequestError(400, f"draw: found '{draw[:40]}', needed 0 or 1")
        args = model.args(
            _number(query.get("threshold"), "threshold", float),
            _number(query.get("iou"), "iou", float),
            query.getlist("class") or None,
            _number(query.get("top_k"), "top_k", int),
        )
        model.batcher.check_room()  # before reading the body
        content_type = request.headers.get("content-type", "")
        async with state.bodies.read(request, deadline) as body:
            if content_type.lower().startswith("multipart/"):
                image = await asyncio.to_thread(file_of_multipart, body, content_type)
            else:
                image = bytes(body)
            (answer,) = await _unless_gone(request, model.predict([image], args, deadline, draw=FLAGS[draw]))
        if answer.drawing is not None:
            return Response(answer.drawing, media_type="image/jpeg")
        result, task = answer.result, model.predictor.task
        height, width = result.size
        return _json({"model": model.name, "height": height, "width": width, task.results_key: task.rows(result)})


def _add_inference(app: FastAPI, state: State) -> None:
    """The routes of the Open Inference Protocol."""

    @app.get("/v2")
    async def server() -> Response:
        return _json(inference.server_metadata())

    @app.get("/v2/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        return _json({"ready": state.ready()}, 200 if state.ready() else 503)

    async def metadata(request: Request, name: str, version: str = inference.VERSION) -> Response:
        return _json(inference.model_metadata(_known(request, state, name, version)))

    async def model_ready(request: Request, name: str, version: str = inference.VERSION) -> Response:
        is_ready = _known(request, state, name, version).ready and not state.draining
        return _json({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(request: Request, name: str, version: str = inference.VERSION) -> Response:
        deadline = state.deadline()
        _known(request, state, name, version)
        model = _model(request, state, name)
        model.batcher.check_room()
        header_length = request.headers.get(inference.HEADER_LENGTH)
        async with state.bodies.read(request, deadline) as body:
            parsed = await asyncio.to_thread(inference.parse, body, header_length, model)
            args = model.args(**parsed.args)
            answers = await _unless_gone(request, model.predict(parsed.images, args, deadline))
        content, headers = inference.response(model, parsed, answers)
        return Response(content, headers=headers)

    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_api_route(path, metadata, methods=["GET"])
        app.add_api_route(f"{path}/ready", model_ready, methods=["GET"])
        app.add_api_route(f"{path}/infer", infer, methods=["POST"])


def _model(request: Request, state: State, name: str | None) -> Model:
    """As `chosen`; the request counts as one of this model."""
    if name in state.models or (name is None and len(state.models) == 1):
        request.state.model = name or next(iter(state.models))
    return chosen(state.models, name)


def _known(request: Request, state: State, name: str, version: str) -> Model:
    """The model, ready or not. Raises RequestError for another name or version."""
    if name not in state.models or version != inference.VERSION:
        raise RequestError(404, f"model '{name[:80]}', version '{version[:20]}': not served")
    request.state.model = name
    return state.models[name]


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is canceled when the client closes its connection. The body was read before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    except asyncio.CancelledError as error:
        raise RequestError(503, "the server was stopped at once, before the answer") from error
    finally:
        working.cancel()
        leaving.cancel()


def _number(text: str | None, name: str, kind: type[float] | type[int]) -> Any:
    try:
        return None if text is None else kind(text)
    except ValueError as error:
        raise RequestError(400, f"{name}: found '{text[:40] if text else ''}', needed a number") from error


def _json(tree: JsonObject, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_text.dumps(tree), status, headers, "application/json")


async def _error_response(request: Request, error: Exception) -> Response:
    """Response for an exception of a route. uvicorn logs unexpected exceptions with their traceback."""
    match error:
        case RequestError():
            status, line, headers = error.status, error.line, error.headers
        case BusyError():
            status, line, headers = 503, str(error), {"retry-after": str(error.retry_after)}
        case InputError():
            status, line, headers = 413 if isinstance(error, TooLargeError) else 400, one_line(str(error)), {}
        case HTTPException():
            status, line, headers = error.status_code, one_line(str(error.detail)), dict(error.headers or {})
        case ClientDisconnect():
            status, line, headers = 400, "the client has disconnected", {}
        case PredictionError():
            status, line, headers = 500, one_line(str(error)), {}
        case _:
            status, line, headers = 500, "internal error; the log of the server has the reason", {}
    return _json({"error": line}, status, headers)


class _Gate:
    """Checks the token, counts responses, and closes connections while the server drains."""

    def __init__(self, app: ASGI, state: State) -> None:
        self.app, self.state = app, state
        self.authorization = None if state.token is None else f"bearer {state.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan or web socket, which uvicorn does not send here
            raise RuntimeError(f"found {scope['type']}, needed http")
        scope["state"] = {"model": ""}
        # HEAD is handled as GET; uvicorn, which has the original scope, omits the body.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.state.metrics.count(scope["state"]["model"], message["status"])
                if self.state.draining:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        if self.authorization is None or scope["path"] in OPEN_PATHS or self._is_authorized(scope):
            await self.app(inner, receive, answer)
        else:
            line = "authorization: needed the server's bearer token"
            response = _json({"error": line}, 401, {"www-authenticate": "Bearer"})
            await response(scope, receive, answer)

    def _is_authorized(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1 or self.authorization is None:
            return False
        scheme, _, token = values[0].partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self.authorization)
