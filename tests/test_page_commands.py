"""Every command in the blocks of every page runs, in order, as a reader types it.

A page gets a new folder with the inputs that its commands name (`page_inputs.py`) and do not make themselves. Trainings
are made short by settings behind those of the page; nothing else is changed. `make test-docs` runs all pages.
"""

import asyncio
import contextlib
import io
import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from object_store import KEY, OBS_ENDPOINT, SECRET, Store
from page_inputs import INPUTS, Inputs, coco, images, run, sets, within
from page_text import NAMES, lines
from short import make_yolo_short

SHORT = (
    "train.epochs=1", "train.minutes=null", "train.batch=4", "train.accumulate=1", "train.log_every=1",
    "train.augment.sizes=[]", "data.canvas.size=[64, 64]", "data.workers=0",
)  # fmt: skip
PAGES = {name: lines(text) for name, text in NAMES.items()}
QUICK = "docs/tutorials/first_detector.md"  # in every run of the tests

# pattern of "PAGE: COMMAND" -> why it is not run
LEFT_OUT = {
    r": make \w+$": "makes an environment: the targets are what runs the tests",
    r": (pip install|python3 -m venv|\. \.venv)": "makes an environment",
    r": #!/bin/bash": "SLURM; test_clusters_page.py parses it",
    r": torchrun": "starts processes of its own; test_two_processes.py trains in two",
    r": docker ": "a Docker daemon and an image of gigabytes",
    r"--device cuda": "a GPU",
    r"rtsp://": "a camera on the network; test_live.py reads live sources",
    r"--ray (auto|[\d.]+:\d+)": "a cluster of Ray that runs already; test_tables_on_ray.py starts one",
    r"--to mindir": "MindSpore, an environment of its own; `make test-mindspore` writes it",
    r"--to om": "Ascend's program atc; test_om.py has a stand-in",
    r"mlflow\]": "the extra mlflow, a server's libraries; test_trackers.py has a stand-in",
    r": python benchmarks/": "measures for hours",
    r" \.\.\.": "says which options vary",
    r"--install-completion": "changes the start-up files of the shell",
}
CHECKS = {"--fail-if-worse", "--equivalent"}  # status 1 says no
RUN = {
    page: found
    for page, commands in PAGES.items()
    if (found := [line for line in commands if not any(re.search(each, f"{page}: {line}") for each in LEFT_OUT)])
}
CASES = [pytest.param(page, marks=[] if page == QUICK else [pytest.mark.pages], id=page) for page in RUN]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings
@pytest.mark.parametrize("page", CASES)
def test_commands_on_pages_run(
    page: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    commands = RUN[page]
    monkeypatch.chdir(tmp_path)
    make_yolo_short(monkeypatch)
    for name in needed(commands):
        inputs.put(name, tmp_path)
    shell = Shell(monkeypatch)
    if re.search(r"\b(s3|obs)://", "\n".join(commands)):
        fill(request.getfixturevalue("store"), tmp_path, monkeypatch)
    shell.run(commands)


def needed(commands: list[str]) -> list[str]:
    """The inputs that commands name and that none before has made."""
    found, made = [], set[str]()
    for line in commands:
        words = shlex.split(line, comments=True)
        for before, word in itertools.pairwise(words[1:]):
            if before in ("--out", "-o", ">"):
                made.add(word.rstrip("/"))
                continue
            word = word.lstrip("@")
            for name in INPUTS:
                named = within(word, name) or within(name, word)
                if named and name not in found and not any(within(name, one) for one in made):
                    found.append(name)
    return found


def fill(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put what pages name into the object store, which also answers as Huawei's OBS."""
    for name, value in (("ENDPOINT", OBS_ENDPOINT), ("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"OBS_{name}", value)
    monkeypatch.setenv("HTTP_PROXY", store.url)  # so that its hosts lead to the store
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    coco(folder / "coco")
    images(folder / "images")
    for name in ("coco", "coco2014"):
        shutil.make_archive(str(folder / name), "zip", folder / "coco")
        store.put(f"bucket/{name}.zip", (folder / f"{name}.zip").read_bytes())
    for name in ("coco", "images"):
        store.put_folder(f"bucket/{name}", folder / name)


class Shell:
    """What a shell does with the lines of pages, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.requests: list[str] = []  # of curl, to the server that runs
        self.failed: list[str] = []

    def run(self, commands: list[str]) -> None:
        commands = [*commands]
        while commands:
            line = commands.pop(0)
            self.requests = [*itertools.takewhile(lambda following: following.startswith("curl "), commands)]
            del commands[: len(self.requests)]
            words = [word for each in shlex.split(line, comments=True) for word in expanded(each)]
            if words[0] == "export":
                self.monkeypatch.setenv(*words[1].split("=", 1))
            elif words[0] == "boxwright":
                self.boxwright(words[1:])
                assert not self.failed, f"{line}: {self.failed}"
            else:
                pytest.fail(f"no way to run: {line}")

    def boxwright(self, words: list[str]) -> None:
        if words[0] in ("serve", "look"):
            self.let_servers_end()
        if ">" in words:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                run(*words[: words.index(">")])
            Path(words[-1]).write_text(printed.getvalue())
        elif "--shard" in words:  # of all machines
            place = words.index("--shard") + 1
            count = int(words[place].partition("/")[2])
            for number in range(1, count + 1):
                run(*words[:place], f"{number}/{count}", *words[place + 1 :])
        else:
            run(*words, *short(words), allowed=(0, 1) if {*words} & CHECKS else (0,))

    def let_servers_end(self) -> None:
        """After the requests of the page, in place of a signal; they listen on a free port of this machine."""
        uvicorn = pytest.importorskip("uvicorn", reason="needs the extra web")
        if self.requests and not shutil.which("curl"):
            pytest.skip("needs curl")
        from boxwright.serve.connections import listen

        async def main_loop(server: Any) -> None:
            port = server.servers[0].sockets[0].getsockname()[1]
            await asyncio.to_thread(self.request, f"http://127.0.0.1:{port}")

        self.monkeypatch.setattr(uvicorn.Server, "main_loop", main_loop)
        for module in ("serve", "look"):
            self.monkeypatch.setattr(f"boxwright.{module}.run.listen", lambda *_: listen("127.0.0.1", 0))

    def request(self, address: str) -> None:
        for line in self.requests:
            line = re.sub(r"http://(127\.0\.0\.1|server):8080", address, line)
            line = line.replace("curl ", "curl --fail --silent --show-error --retry 9 ", 1)
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
            if done.returncode:
                self.failed.append(f"{line}: {done.stderr}")


def expanded(word: str) -> list[str]:
    """The files of a pattern; what is in /shared on pages is in a folder here."""
    word = word.removeprefix("/") if word.startswith("/shared") else word
    return (sorted(map(str, Path().glob(word))) if "*" in word else []) or [word]


def short(words: list[str]) -> list[str]:
    """What is added to a command that trains or measures time."""
    if words[0] in ("train", "demo"):
        return sets(SHORT)
    if words[:2] == ["data", "audit"] and "--weights" not in words:
        return [*sets(SHORT), "--minutes", "0"]
    return ["--rounds", "1"] if words[0] == "bench" else []


def test_failing_and_unknown_commands_fail_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch)
    shell.run(["export NAME=demo", "boxwright show demo > mine.yaml", "boxwright show mine.yaml"])
    for wrong in ("boxwright show yours.yaml", "boxwright data check nothing"):
        with pytest.raises(AssertionError, match=r"\('(show|data)'"):
            shell.run([wrong])
    with pytest.raises(pytest.fail.Exception, match="no way to run: wget"):
        shell.run(["wget file"])


def test_patterns_of_skipped_commands_match_a_page() -> None:
    found = [f"{page}: {line}" for page, commands in PAGES.items() for line in commands]
    assert [pattern for pattern in LEFT_OUT if not any(re.search(pattern, each) for each in found)] == []


def test_all_prepared_inputs_are_used_by_pages() -> None:
    named = {name for commands in RUN.values() for name in needed(commands)}
    assert sorted(INPUTS.keys() - named) == []


def test_first_tutorial_needs_only_labeled_images_and_a_video() -> None:
    """All else is made by its own commands."""
    assert needed(RUN[QUICK]) == ["pictures", "clip.mp4"]


def test_outputs_of_earlier_commands_are_not_inputs() -> None:
    assert needed(["boxwright data split pictures -o data/mine", "boxwright train demo --data data/mine"]) == [
        "pictures"
    ]
    assert needed(["boxwright train demo --data data/mine --out runs/mine"]) == ["data/mine"]
    assert needed(["boxwright evaluate runs/mine", "boxwright train demo --out runs/mine"]) == ["runs/mine"]
