"""Start Ray on this machine, without telemetry and dashboard and only on loopback, or connect to a cluster."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from boxwright.errors import InputError, printable
from boxwright.extras import first_line, import_extra

LOCAL = "local"  # the address that starts Ray on this machine
MARK = "boxwright| "  # prefix of each line of the package's log in a worker
LOOPBACK = "127.0.0.1"
SECONDS_TO_CONNECT = 10


@contextmanager
def session(
    address: str, cpus: int | None = None, object_store: int | None = None, *, worker_logs: bool = True
) -> Iterator[ModuleType]:
    """Connect to a cluster until the end of the block, and yield the module `ray`.

    Args:
        address: `local` starts Ray on this machine and stops it after the block; `auto` is the cluster of RAY_ADDRESS,
            or of this machine; or HOST:PORT of a cluster's head.
        cpus: CPUs of a local cluster; None for all of the machine.
        object_store: Bytes of shared memory of a local cluster; None for a third of the machine's memory.
        worker_logs: Print what other processes print.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or this process is connected already.
    """
    if address == LOCAL and "ray" not in sys.modules:  # read when Ray is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default, without its warning
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # otherwise Ray replaces Python's print permanently
    ray = import_extra("ray", "ray")
    if ray.is_initialized():
        raise InputError("--ray: this process is connected to Ray already; call ray.shutdown() first")
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address == LOCAL:
            _start(ray, cpus, object_store, worker_logs)
        else:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=worker_logs, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        ray.shutdown()
        what = "Ray does not start here" if address == LOCAL else f"no Ray cluster at {address}"
        raise InputError(
            f"--ray: {what} ({first_line(error)}); needed local, auto, or HOST:PORT of a head node"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray's handler raises SystemExit, which makes its native code abort
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at HOST:PORT; Ray would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def _start(ray: ModuleType, cpus: int | None, object_store: int | None, worker_logs: bool) -> None:
    """Start Ray on this machine, not reachable from others; processes of this user connect by the token in ~/.ray."""
    services = import_extra("ray._private.services", "ray")
    resolve = getattr(services, "resolve_ip_for_localhost", None)
    if resolve is not None:  # it replaces loopback by the address of a network interface, on which Ray would listen
        services.resolve_ip_for_localhost = lambda host: host  # type: ignore[attr-defined]
    try:
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            num_cpus=cpus,
            object_store_memory=object_store,
            log_to_driver=worker_logs,
            logging_level=logging.WARNING,
            _node_ip_address=LOOPBACK,
        )
    finally:
        if resolve is not None:
            services.resolve_ip_for_localhost = resolve  # type: ignore[attr-defined]


def log_in_worker() -> None:
    """Send the package's log in a worker to the driver, where `show_log` prints it."""
    logger = logging.getLogger("boxwright")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{MARK}%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def show_log() -> None:
    """From the output of workers, show only the lines of `log_in_worker`, without Ray's own messages."""
    dispatcher = import_extra("ray._private.ray_logging", "ray").global_worker_stdstream_dispatcher
    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("ray_print_logs", _show)


def _show(data: dict[str, Any]) -> None:
    for line in data["lines"]:
        if MARK in line:
            print(printable(line.partition(MARK)[2]), file=sys.stderr)
