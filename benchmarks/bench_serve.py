"""`boxwright serve` under load: throughput, latency, overload, memory, and a stop under load. Linux, loopback only.

    python benchmarks/bench_serve.py [--weights FILE] [--recipe NAME] [--rounds 3] [--seconds 10] [--clients 16]
                                     [--queue 16] [--image 640x480]

The network is exported to OpenVINO and served in turns in three ways: with dynamic batching (--max-batch 8), one image
at a time on all cores (--max-batch 1), and by a plain FastAPI route that calls the predictor. Clients run in this
process, each sends the next request when it has an answer. Medians of rounds. Then 10 times the measured throughput is
sent for --seconds, and last the server is stopped by SIGTERM under load.
"""

import argparse
import asyncio
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

from bench_predict import random_weights
from boxwright import __version__, recipe
from boxwright.export.run import export_model

PLAIN = """
import sys
import fastapi, uvicorn
from boxwright.predict.predictor import load
from boxwright.runtimes.base.runtime import RuntimeOptions
predictor = load(sys.argv[1], device="cpu", runtime_options=RuntimeOptions(fuse=True))
app = fastapi.FastAPI()

@app.get("/v2/health/ready")
def ready():
    return {}

@app.post("/predict")
def predict(body: bytes = fastapi.Body()):
    found = predictor(body)
    return {"detections": predictor.task.rows(found)}

uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
OVERLOAD = 10  # times the capacity


@dataclass
class Tally:
    """Seconds of the requests by status; 0: closed without a response after the request was sent."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    sent: int = 0

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def count(self, status: int) -> int:
        return len(self.seconds.get(status, ()))

    def p(self, percent: float, status: int = 200) -> float:
        """A percentile in ms."""
        return float(np.percentile(self.seconds.get(status, [float("nan")]), percent)) * 1000


def request(image: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
    return head.encode() + image


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes, tally: Tally) -> bool:
    """One request on an open connection; whether the connection is still open."""
    start = time.perf_counter()
    try:
        writer.write(content)
        await writer.drain()
        tally.sent += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError):
        tally.add(0, time.perf_counter() - start)
        return False
    tally.add(int(head.split()[1]), time.perf_counter() - start)
    return b"connection: close" not in head


async def closed_loop(port: int, images: list[bytes], clients: int, seconds: float) -> Tally:
    """Each client sends the next request when it has an answer, until the time is over or its connection is closed."""
    tally, end = Tally(), time.perf_counter() + seconds
    contents = [request(image) for image in images]

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end and await ask(reader, writer, contents[number % len(contents)], tally):
            number += clients
        writer.close()

    await asyncio.gather(*map(client, range(clients)))
    return tally


async def open_loop(port: int, images: list[bytes], rate: float, seconds: float) -> Tally:
    """`rate` requests a second, whether answers come or not."""
    tally, content = Tally(), request(images[0])
    idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
    tasks = set()

    async def one() -> None:
        pair = idle.popleft() if idle else await asyncio.open_connection("127.0.0.1", port)
        if await ask(*pair, content, tally):
            idle.append(pair)

    begin = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return tally


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def server(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that is ready, and its port, which replaces PORT in the command."""
    port = free_port()
    process = subprocess.Popen([sys.executable, *(word.replace("PORT", str(port)) for word in command)])
    try:
        while not is_ready(port):
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.1)
        yield process, port
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


def resident(process: subprocess.Popen[bytes]) -> float:
    """MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """That the process has used."""
    times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def made_images(width: int, height: int, count: int = 16) -> list[bytes]:
    """JPEGs of blurred noise at several scales."""
    draw, images = np.random.default_rng(0), []
    for _ in range(count):
        layers = [cv2.resize(draw.normal(0, 40, (height // k, width // k, 3)), (width, height)) for k in (4, 16, 80)]
        content = cv2.imencode(".jpg", np.clip(sum(layers) + 128, 0, 255).astype(np.uint8))[1]
        images.append(content.tobytes())
    return images


def throughput(
    ways: dict[str, tuple[str, ...]], images: list[bytes], clients: int, rounds: int, seconds: float
) -> None:
    """Print the images a second of each way, in turns, and their ratios to the first in the same round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    tallies: dict[str, list[Tally]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, command in ways.items():
            with server(*command) as (process, port):
                asyncio.run(closed_loop(port, images, clients, 1))
                before = cpu_seconds(process)
                tally = asyncio.run(closed_loop(port, images, clients, seconds))
                used[name].append((cpu_seconds(process) - before) / max(1, tally.count(200)))
            rates[name].append(tally.count(200) / seconds)
            tallies[name].append(tally)
    first = next(iter(ways))
    for name, found in rates.items():
        ratios = sorted(a / b for a, b in zip(rates[first], found, strict=True))
        p50, p95 = (statistics.median(tally.p(percent) for tally in tallies[name]) for percent in (50, 95))
        print(f"{name}: {statistics.median(found):.1f} images/s, p50 {p50:.0f} ms, p95 {p95:.0f} ms", end="")
        print(f", {statistics.median(used[name]) * 1000:.0f} ms of CPU time an image", end="")
        print(f"; {first} is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def overload(command: tuple[str, ...], images: list[bytes], clients: int, seconds: float) -> None:
    with server(*command) as (process, port):
        asyncio.run(closed_loop(port, images, clients, 2))
        alone = asyncio.run(closed_loop(port, images, 1, seconds / 2))
        loaded = asyncio.run(closed_loop(port, images, clients, seconds / 2))
        capacity = loaded.count(200) / (seconds / 2)
        before = resident(process)
        over = asyncio.run(open_loop(port, images, OVERLOAD * capacity, seconds))
        after = resident(process)
        again = asyncio.run(open_loop(port, images, OVERLOAD * capacity, seconds))
        print(f"p95: 1 client {alone.p(95):.0f} ms, {clients} clients {loaded.p(95):.0f} ms ({capacity:.1f} images/s)")
        for name, tally in (("overload", over), ("overload again", again)):
            statuses = dict(Counter({status: len(found) for status, found in tally.seconds.items()}))
            print(f"{name}, {OVERLOAD * capacity:.0f} requests/s: {statuses}", end="")
            print(
                f"; answered p95 {tally.p(95):.0f} ms, {tally.p(95) / loaded.p(95):.2f} times that of {clients}", end=""
            )
            print(f" clients; 503 p50 {tally.p(50, 503):.1f} ms, p95 {tally.p(95, 503):.1f} ms")
        print(f"memory: {before:.0f} MB before, {after:.0f} MB after, {resident(process):.0f} MB after the second")


def stop(command: tuple[str, ...], images: list[bytes], clients: int) -> None:
    """SIGTERM while all clients send."""

    async def load(port: int, process: subprocess.Popen[bytes]) -> Tally:
        asyncio.get_running_loop().call_later(2, process.send_signal, signal.SIGTERM)
        return await closed_loop(port, images, clients, 60)

    with server(*command) as (process, port):
        begin = time.perf_counter()
        tally = asyncio.run(load(port, process))
        status = process.wait(60)
        seconds = time.perf_counter() - begin - 2
        print(
            f"SIGTERM with {clients} clients: {tally.sent} sent, {tally.count(200)} answered, {tally.count(503)} ",
            end="",
        )
        print(f"rejected, {tally.count(0)} lost; status {status}, {seconds:.1f} s after the signal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="in place of random ones")
    parser.add_argument("--recipe", default="yolov3_tiny_coco_416_darknet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--queue", type=int, default=16, help="of the overload")
    parser.add_argument("--image", default="640x480")
    words = parser.parse_args()
    print(
        f"{date.today()}  boxwright {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        end="",
    )
    print(f"  {platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    width, height = map(int, words.image.split("x"))
    images = made_images(width, height)
    with tempfile.TemporaryDirectory() as place:
        weights, file = words.weights, str(Path(place) / "model.xml")
        if weights is None:
            weights = str(Path(place) / "random.safetensors")
            random_weights(recipe.load(words.recipe), Path(weights))
        print(export_model(weights, "openvino", file, recipe=words.recipe))
        serve = ("-m", "boxwright", "serve", file, "--port", "PORT")
        ways = {
            "dynamic batching": serve,
            "--max-batch 1": (*serve, "--max-batch", "1"),
            "plain route": ("-c", PLAIN, file, "PORT"),
        }
        throughput(ways, images, words.clients, words.rounds, words.seconds)
        overload((*serve, "--queue", str(words.queue)), images, words.clients, words.seconds)
        stop(serve, images, words.clients)


if __name__ == "__main__":
    main()
