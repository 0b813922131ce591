"""A server beyond its limits: too many requests, slow clients, a token, and a stop under load."""

import contextlib
import http.client
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve_stand_in import ServerProcess, running, stand_in
from test_serve import RED, Answer, ask, encoded, metrics

for module in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(module, reason="needs the extra serve")

DELAY, TIMEOUT, HEAD, QUEUE = 0.25, 5.0, 1.0, 4  # seconds of the network, for a request, for its head; images
TOKEN = "k3y"
BEARER = {"authorization": f"Bearer {TOKEN}"}
PATIENCE = 30.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def slow() -> Iterator[ServerProcess]:
    with running(stand_in(delay=DELAY, timeout=TIMEOUT, head_seconds=HEAD, queue=QUEUE)) as process:
        yield process


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def waiting(server: ServerProcess) -> float:
    return metrics(server)['boxwright_queue_images{model="shapes"}']


@pytest.mark.slow
def test_requests_beyond_the_queue_are_rejected_at_once(slow: ServerProcess) -> None:
    def one(_: int) -> tuple[Answer, float]:
        start = time.monotonic()
        return ask(slow, "POST", "/predict", encoded(RED)), time.monotonic() - start

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(one, range(24)))
    answered = [seconds for answer, seconds in found if answer[0] == 200]
    rejected = [(answer, seconds) for answer, seconds in found if answer[0] == 503]
    assert len(answered) + len(rejected) == 24
    assert len(answered) >= QUEUE
    for answer, _ in rejected:
        assert int(answer[2]["retry-after"]) >= 1
        assert "queue is full" in answer[1]["error"]
    assert min(seconds for _, seconds in rejected) < min(answered), "without waiting for the network"
    assert ask(slow, "POST", "/predict", encoded(RED))[0] == 200


@pytest.mark.slow
def test_rejected_requests_leak_no_memory(slow: ServerProcess) -> None:
    body = encoded(RED) + bytes(1_000_000)

    def send(rejections: int) -> None:
        """From 8 threads, until that many were rejected in all."""
        found: Counter[int] = Counter()

        def one() -> None:
            while found[503] < rejections:
                found[ask(slow, "POST", "/predict", body)[0]] += 1

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(one) for _ in range(8)]:
                future.result()
        assert set(found) == {200, 503}

    send(20)
    before = slow.megabytes()
    send(150)
    assert slow.megabytes() < before + 40, "150 MB were rejected"


@pytest.mark.slow
def test_slow_clients_are_disconnected_without_blocking_requests(slow: ServerProcess) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with contextlib.ExitStack() as stack:

        def connect(start: bytes) -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", slow.port), timeout=PATIENCE))
            connection.sendall(start)
            return connection

        idle, slow_head, slow_body = connect(b""), connect(head[:20]), connect(head)
        open_, answers = {idle, slow_head, slow_body}, []
        end = time.monotonic() + PATIENCE
        while open_:
            assert time.monotonic() < end
            for connection in list(open_):
                with contextlib.suppress(OSError):  # closed
                    if connection is not idle:
                        connection.sendall(b"x")
                connection.settimeout(0.1)
                try:
                    content = connection.recv(1000)
                except TimeoutError:
                    continue
                except OSError:
                    content = b""
                if content:
                    answers.append(content)
                else:
                    open_.discard(connection)
            assert ask(slow, "GET", "/v2/health/live")[0] == 200
    assert any(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)


@pytest.mark.slow
def test_token_is_required() -> None:
    with running(stand_in(token=TOKEN)) as server:
        for headers in ({}, {"authorization": "Bearer k3"}, {"authorization": "Basic k3y"}, {"authorization": TOKEN}):
            for method, path in (("POST", "/predict"), ("GET", "/metrics"), ("GET", "/v2"), ("GET", "/nothing")):
                status, answer, found = ask(server, method, path, encoded(RED), **headers)
                assert (status, found["www-authenticate"]) == (401, "Bearer")
                assert "token" in answer["error"]
        assert ask(server, "POST", "/predict", encoded(RED), **BEARER)[0] == 200
        assert ask(server, "GET", "/metrics", **BEARER)[0] == 200
        assert ask(server, "GET", "/v2/health/ready")[0] == 200, "for probes"
        assert TOKEN not in "".join(server.lines)


@pytest.mark.slow
def test_stop_under_load_finishes_accepted_requests() -> None:
    """And a request that comes just after the signal, on a connection that was idle."""
    with running(stand_in(delay=DELAY, queue=64, linger_seconds=10)) as server, ThreadPoolExecutor(8) as pool:
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        idle.request("GET", "/v2/health/live")
        assert idle.getresponse().read()
        futures = [pool.submit(ask, server, "POST", "/predict", encoded(RED)) for _ in range(8)]
        until(lambda: waiting(server) >= 6)
        server.process.terminate()
        until(lambda: not is_listening(server.port))
        idle.request("POST", "/predict", encoded(RED))
        late = idle.getresponse()
        assert (late.status, late.getheader("connection")) == (200, "close")
        late.read()
        assert [future.result()[0] for future in futures] == [200] * 8
        assert server.process.wait(PATIENCE) == 0
        server.reader.join()
        assert server.lines[-1] == "stopped; all accepted requests were answered\n"


def test_second_signal_stops_the_server_at_once() -> None:
    """Without running what waits, and without a traceback for each request."""
    with running(stand_in(delay=1.0, max_batch=1)) as server, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, server, "POST", "/predict", encoded(RED)) for _ in range(8)]
        until(lambda: waiting(server) >= 6)
        server.process.terminate()
        until(lambda: not is_listening(server.port))
        server.process.terminate()
        answers = [future.result() for future in futures]
        assert server.process.wait(PATIENCE) == 0
        server.reader.join()
        found = Counter(answer[0] for answer in answers)
        assert found[503] >= 2, "of eight that take a second each"
        assert found[200] + found[503] == 8
        assert all("stopped at once" in answer[1]["error"] for answer in answers if answer[0] == 503)
        assert "Traceback" not in "".join(server.lines)
        assert server.lines[-1] == "stopped at once; waiting requests were not answered\n"


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_slow_header_of_a_later_request_closes_the_connection(slow: ServerProcess) -> None:
    """Between requests a connection may be idle for longer than a head may take."""
    with socket.create_connection(("127.0.0.1", slow.port), timeout=PATIENCE) as connection:
        for _ in range(2):
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(1.5 * HEAD)
        connection.sendall(b"GET /v2/he")
        assert connection.recv(1000) == b"", "closed"
