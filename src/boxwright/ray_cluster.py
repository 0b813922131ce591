"""Ray, started on this machine or connected to: without telemetry, without dashboard, listening on loopback only."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from boxwright.errors import InputError
from boxwright.extras import first_line, import_extra

LOCAL = "local"  # the address that starts Ray on this machine
LOOPBACK = "127.0.0.1"
SECONDS_TO_CONNECT = 10


@contextmanager
def session(address: str, cpus: int | None = None) -> Iterator[ModuleType]:
    """The module `ray`, connected to a cluster until the end of the block.

    Args:
        address: `local` starts Ray on this machine and ends it with the block; `auto` is the cluster of this machine,
            that of RAY_ADDRESS if it is set; or HOST:PORT of a cluster's head.
        cpus: CPUs that a local start offers; None for those of the machine.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or this process is connected already.
    """
    if address == LOCAL and "ray" not in sys.modules:  # read when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default, without its warning
    ray = import_extra("ray", "ray")
    if ray.is_initialized():
        raise InputError("--ray: this process is connected to Ray already; call ray.shutdown() first")
    try:
        if address == LOCAL:
            _start(ray, cpus)
        else:
            _check_reachable(address)
            ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        ray.shutdown()
        what = "Ray does not start here" if address == LOCAL else f"no Ray cluster at {address}"
        raise InputError(
            f"--ray: {what} ({first_line(error)}); needed local, auto, or HOST:PORT of a head node"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError where nothing listens at HOST:PORT, after which Ray would look for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def _start(ray: ModuleType, cpus: int | None) -> None:
    """Start Ray on this machine, closed to others; other processes of this user connect by the token in ~/.ray."""
    services = import_extra("ray._private.services", "ray")
    resolve = getattr(services, "resolve_ip_for_localhost", None)
    if resolve is not None:  # it replaces loopback by the address of a network card, on which Ray would listen
        services.resolve_ip_for_localhost = lambda host: host  # type: ignore[attr-defined]
    try:
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            num_cpus=cpus,
            logging_level=logging.WARNING,
            _node_ip_address=LOOPBACK,
        )
    finally:
        if resolve is not None:
            services.resolve_ip_for_localhost = resolve  # type: ignore[attr-defined]
