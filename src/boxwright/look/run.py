"""Serve the page: the set is opened, then a server listens on loopback."""

import asyncio
import secrets
from collections.abc import Sequence

from boxwright.look.app import State, create_app
from boxwright.look.catalog import Catalog
from boxwright.look.gate import Gate
from boxwright.serve.connections import Server, listen, server_config

HOST = "127.0.0.1"
GRACE = 5  # s that requests have to finish when the server stops


def run(
    data: str, runs: Sequence[str] = (), *, split: str | None = None, audit: str | None = None, kind: str = "auto",
    port: int = 0,
) -> None:  # fmt: skip
    """Serve the page until Ctrl-C or SIGTERM. Its address is printed to stdout once the server listens.

    Args:
        data: The labeled set.
        runs: Run folders, folders of runs, or output folders of `evaluate`.
        split: The only split to show; None for all.
        audit: audit.json of `data audit`; None for none.
        kind: The layout of the labels.
        port: Port; 0 for any free one.

    Raises:
        InputError: The set, a run or the audit cannot be read, or the server cannot listen there.
    """
    state = State.open(Catalog(data, kind, split), runs, audit)
    with listen(HOST, port) as listener:
        number, token = listener.getsockname()[1], secrets.token_urlsafe(24)
        server = Server(server_config(Gate(create_app(state), token, number), GRACE), state)
        print(f"http://{HOST}:{number}/{token}/", flush=True)
        asyncio.run(server.serve([listener]))
