"""Run a server: models are loaded, then it listens, then the models are warmed up."""

import asyncio
import ipaddress
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from boxwright.errors import InputError
from boxwright.predict.predictor import AnyPredictor
from boxwright.serve.app import State, create_app
from boxwright.serve.batcher import Limits
from boxwright.serve.bodies import Bodies
from boxwright.serve.connections import Server, listen, server_config
from boxwright.serve.metrics import Metrics
from boxwright.serve.models import Model


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server.

    Attributes:
        host: Name or address to listen on.
        port: Port; 0 for any free one.
        limits: Limits of each model.
        timeout: Seconds for a request, from its head to its response.
        max_body: Largest body in bytes.
        token: Bearer token that requests need; None for none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    limits: Limits = field(default_factory=Limits)
    timeout: float = 30.0
    max_body: int = 32_000_000
    token: str | None = None


def serve(predictors: Mapping[str, AnyPredictor], settings: Settings) -> None:
    """Serve predictors by name until SIGTERM or Ctrl-C; accepted requests are answered first.

    Raises:
        InputError: It cannot listen there, or a model cannot be run.
    """
    log = logging.getLogger("boxwright")
    metrics = Metrics(predictors)
    with listen(settings.host, settings.port) as listener:
        models = {
            name: Model(name, predictor, settings.limits, metrics.models[name])
            for name, predictor in predictors.items()
        }
        state = State(models, metrics, Bodies(settings.max_body), settings.timeout, settings.token)
        host, port = listener.getsockname()[:2]
        log.info(
            "serving %s on http://%s:%d (%s)", ", ".join(models), _in_url(host), port, _reach(host, settings.token)
        )
        server, faults = Server(server_config(create_app(state), int(state.timeout) + 1), state), list[str]()
        warm_up = threading.Thread(target=_warm_up, args=(models, server, faults))
        warm_up.start()
        try:
            asyncio.run(server.serve([listener]))
        finally:
            warm_up.join()
            for model in reversed(models.values()):
                model.batcher.close()
    if faults:
        raise InputError(faults[0])
    if server.force_exit:
        log.info("stopped at once; waiting requests were not answered")
    else:
        log.info("stopped; all accepted requests were answered")


def _warm_up(models: Mapping[str, Model], server: Server, faults: list[str]) -> None:
    """Warm up all models; if one cannot be run, add the reason to `faults` and stop the server."""
    try:
        for model in models.values():
            model.warm_up()
    except Exception as error:  # any exception of a runtime
        faults.append(f"{model.name}: cannot be run ({error})")
        server.should_exit = True
    else:
        logging.getLogger("boxwright").info("ready")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reach(host: str, token: str | None) -> str:
    """Description of who can send requests."""
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return "this machine only; --host 0.0.0.0 for others"
    return "other machines too" + (", with the token" if token else ", WITHOUT a token: set BOXWRIGHT_TOKEN")
