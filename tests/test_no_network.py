"""Nothing is sent anywhere and nothing is left in the home folder: all commands in a separate network namespace, with
every call of the C library that could reach another machine recorded and rejected."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from small_run import SMALL

pytestmark = pytest.mark.runtimes

# Loaded before the C library. Sockets that are not of the internet reach nobody.
WATCH = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <dlfcn.h>

static void note(const char *what, const char *where) {
    char line[300];
    int length = snprintf(line, sizeof line, "%s %s\n", what, where ? where : "-");
    int file = open(getenv("WATCHED"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0) { if (write(file, line, length) < 0) abort(); close(file); }
}
static int beyond(const struct sockaddr *to) {
    return to && (to->sa_family == AF_INET || to->sa_family == AF_INET6);
}
static int refused(const char *what) { note(what, "an address"); errno = ENETUNREACH; return -1; }
#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

int connect(int handle, const struct sockaddr *to, socklen_t size) {
    return beyond(to) ? refused("connect") : REAL(connect)(handle, to, size);
}
ssize_t sendto(int handle, const void *data, size_t count, int flags, const struct sockaddr *to, socklen_t size) {
    return beyond(to) ? refused("sendto") : REAL(sendto)(handle, data, count, flags, to, size);
}
ssize_t sendmsg(int handle, const struct msghdr *message, int flags) {
    return beyond(message->msg_name) ? refused("sendmsg") : REAL(sendmsg)(handle, message, flags);
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note("getaddrinfo", name);
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) { note("gethostbyname", name); return NULL; }
"""

# One process, for most of its time are imports. ONNX Runtime reports only when its process is some seconds old.
SCRIPT = """
import json, sys, time
from boxwright import cli

small, data = json.loads(sys.argv[1])
begun = None

def run(*words):
    global begun
    try:
        cli.main(list(words))
    except SystemExit as leaving:
        assert not leaving.code, (words, leaving.code)
    if "onnxruntime" in sys.modules and begun is None:
        begun = time.monotonic()

run("train", "demo", "--data", data, "--out", "run", *small)
weights = "run/last/model.safetensors"
run("export", weights, "--to", "onnx", "-o", "a.onnx")
image = data + "/val/1.png"
run("predict", "a.onnx", image, "--backend", "onnxruntime")
run("predict", "a.onnx", image, "--backend", "openvino")
run("quantize", weights, "--data", data, "-o", "int8.xml", "--images", "2", "--max-drop", "1")
run("predict", "int8.xml", image)
run("evaluate", weights, "--data", data)
run("predict", weights, image)
run("bench", weights, "--rounds", "1")
time.sleep(max(0, begun + 20 - time.monotonic()))
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for LD_PRELOAD that writes into $WATCHED who is to be reached."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler to watch the calls of the C library")
    source = tmp_path_factory.mktemp("watch") / "watch.c"
    source.write_text(WATCH)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def without_network() -> list[str]:
    """The command under which another one has no network."""
    for words in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    pytest.skip("unshare is not here or not permitted: no network namespace of our own")


def watched(watch: Path, home: Path, *command: str) -> list[str]:
    """What a command tried to reach. It runs in `home`'s parent."""
    home.mkdir()
    log = home.parent / "watched.txt"
    log.touch()
    set_by_others = ("XDG_", "MPL", "ORT_", "NNCF_", "CI")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(set_by_others)}
    environment = kept | {"HOME": str(home), "LD_PRELOAD": str(watch), "WATCHED": str(log), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*without_network(), *command], cwd=home.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return log.read_text().splitlines()


def test_watch_detects_every_kind_of_network_access(watch: Path, tmp_path: Path) -> None:
    code = """if True:
        import contextlib, socket
        with contextlib.suppress(OSError):
            socket.socket(socket.AF_INET).connect(("192.0.2.1", 80))
        with contextlib.suppress(OSError):
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 80))
        with contextlib.suppress(OSError):
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendmsg([b""], [], 0, ("2001:db8::1", 80))
        with contextlib.suppress(OSError):
            socket.create_connection(("somewhere.invalid", 80), 1)
    """
    seen = watched(watch, tmp_path / "home", sys.executable, "-c", code)
    assert seen == ["connect an address", "sendto an address", "sendmsg an address", "getaddrinfo somewhere.invalid"]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime", "openvino", "nncf")),
    reason="needs the extras onnx and openvino",
)
def test_no_network_access_and_no_files_in_the_home_folder(watch: Path, tiny_coco: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    changes = {"model.width": 0.03, "data.canvas.size": [64, 64], "train.epochs": 1}
    small = [word for key, value in (SMALL | changes).items() for word in ("--set", f"{key}={json.dumps(value)}")]
    told = json.dumps([small, str(tiny_coco)])
    assert watched(watch, home, sys.executable, "-c", SCRIPT, told) == []
    ours = home / ".cache" / "boxwright"
    left = [path for path in home.rglob("*") if path.is_file() and ours not in path.parents]
    assert left == []
