"""The command `serve`: its arguments, where it listens, and models that are not ready."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

for module in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(module, reason="needs the extra serve")

from boxwright import cli  # noqa: E402
from boxwright.errors import InputError  # noqa: E402
from boxwright.serve import connections, run  # noqa: E402
from boxwright.serve.bodies import TOTAL, Bodies  # noqa: E402
from boxwright.serve.forms import file_of_multipart  # noqa: E402
from boxwright.serve.models import Model, chosen  # noqa: E402
from boxwright.serve.request_error import RequestError  # noqa: E402


@pytest.mark.parametrize(
    ("arguments", "token", "line"),
    [
        (["nothing.safetensors"], None, "nothing.safetensors"),
        (["a.xml", "b/a.xml"], None, "'a' is taken by a.xml"),
        (["a.xml", "--port", "70000"], None, "'--port'"),
        (["a.xml", "--max-batch", "0"], None, "'--max-batch'"),
        (["a.xml"], " ", "BOXWRIGHT_TOKEN: found an empty or unprintable token"),
        (["a.xml"], "k\u00e9y", "BOXWRIGHT_TOKEN: found an empty or unprintable token"),
        ([], None, "Missing argument"),
    ],
)
def test_invalid_arguments_are_one_line_errors(
    arguments: list[str],
    token: str | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOXWRIGHT_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("BOXWRIGHT_TOKEN", token)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["serve", *arguments])
    assert leaving.value.code == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert line in found
    assert len(found) <= 200


def test_help_does_not_import_the_server() -> None:
    code = (
        "import sys\nfrom boxwright import cli\ntry:\n    cli.main(['serve', '--help'])\n"
        "except SystemExit as leaving:\n    assert not leaving.code\n"
        "print(sorted({'torch', 'fastapi', 'uvicorn'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.strip() == "[]"
    assert "127.0.0.1" in done.stdout, "the default"


def test_address_in_use_is_an_error() -> None:
    with connections.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"host 127.0.0.1, port {port}: cannot listen there \(Address already"):
            connections.listen("127.0.0.1", port)
    with pytest.raises(InputError, match="cannot listen there"):
        connections.listen("no.such.host.invalid", 0)


def test_nagle_algorithm_is_disabled() -> None:
    """asyncio disables Nagle's algorithm only for sockets that are declared as TCP."""
    with connections.listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("host", "token", "line"),
    [
        ("127.0.0.1", None, "this machine only"),
        ("::1", None, "this machine only"),
        ("0.0.0.0", None, "other machines too, WITHOUT a token: set BOXWRIGHT_TOKEN"),
        ("::", "k", "other machines too, with the token"),
        ("192.0.2.1", "k", "other machines too, with the token"),
    ],
)
def test_startup_message_says_who_can_send_requests(host: str, token: str | None, line: str) -> None:
    assert run._reach(host, token).startswith(line)


def test_requests_to_a_model_that_is_not_ready_are_rejected() -> None:
    models: Any = {"a": SimpleNamespace(ready=False), "b": SimpleNamespace(ready=True)}
    assert chosen(models, "b").ready
    for name, status in (("a", 503), ("c", 404), (None, 400)):
        with pytest.raises(RequestError) as rejected:
            chosen(models, name)
        assert rejected.value.status == status


def test_failing_model_stops_the_server() -> None:
    class Broken(Model):
        def __init__(self) -> None:
            self.name = "broken"

        def warm_up(self) -> None:
            raise RuntimeError("an operator is missing")

    server: Any = SimpleNamespace(should_exit=False)
    faults: list[str] = []
    thread = threading.Thread(target=run._warm_up, args=({"broken": Broken()}, server, faults))
    thread.start()
    thread.join()
    assert server.should_exit
    assert faults == ["broken: cannot be run (an operator is missing)"]


class FakeRequest:
    """A request whose body arrives in these chunks."""

    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def test_malformed_forms_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody can send them, as many as they like."""
    with pytest.raises(RequestError, match="malformed"):
        file_of_multipart(b"no boundary", "multipart/form-data; boundary=edge")
    assert capsys.readouterr().err == ""


def test_total_size_of_bodies_is_bounded() -> None:
    bodies = Bodies(100)

    async def read(*chunks: bytes) -> int:
        request: Any = FakeRequest(*chunks)
        async with bodies.read(request, asyncio.get_running_loop().time() + 60) as body:
            return len(body)

    async def hold(count: int) -> int:
        """The status of a body of 100 bytes while `count` others are in memory."""
        if not count:
            return await read(bytes(60), bytes(40))
        request: Any = FakeRequest(bytes(100))
        async with bodies.read(request, asyncio.get_running_loop().time() + 60):
            return await hold(count - 1)

    assert asyncio.run(hold(TOTAL - 1)) == 100
    with pytest.raises(RequestError) as rejected:
        asyncio.run(hold(TOTAL))
    assert rejected.value.status == 503
    with pytest.raises(RequestError) as rejected:
        asyncio.run(read(bytes(60), bytes(41)))
    assert rejected.value.status == 413
    assert asyncio.run(hold(TOTAL - 1)) == 100, "all is forgotten"
