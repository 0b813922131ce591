"""The run folder: the lock, resuming, and consistency after a kill or on a full disk."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from boxwright import cli, files
from boxwright import recipe as recipes
from boxwright.data.fingerprint import Kind, fingerprint
from boxwright.engine import checkpointing, run_folder
from boxwright.engine import train as training
from boxwright.engine.checkpointing import Checkpointer, TrainState, recover
from boxwright.engine.events import Events
from boxwright.errors import InputError
from boxwright.evaluation.evaluate import evaluate_dataset as evaluate
from boxwright.predict.predictor import load
from small_run import SMALL, lines, start, tensors
from test_files import no_file_beyond

pytestmark = pytest.mark.slow

ONE = {"train.epochs": 1}


def run(data: Path, out: Path, changes: dict[str, object] = ONE, **words: Any) -> Path:
    return training.train("demo", data, out, overrides=SMALL | changes, **words)


@pytest.fixture(scope="module")
def finished(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny_coco, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


class TestLock:
    def test_second_process_is_rejected(self, tiny_coco: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        process = start(tiny_coco, out, {"train.epochs": 10_000, "data.workers": 1})
        try:
            while process.poll() is None and not lines(out):
                time.sleep(0.01)
            message = rf"run: is being trained by process {process.pid} on \S+; wait until it ends, stop it, or choose"
            before = lines(out)
            for resume in (True, False):
                with pytest.raises(InputError, match=message if resume else "holds a run already|" + message):
                    run(tiny_coco, out, resume=resume)
            assert lines(out)[: len(before)] == before
            time.sleep(0.1)
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
        # the lock ends with the process, though its loader's worker may live on for seconds
        with pytest.raises(InputError, match=r"train\.epochs is 10000 there and 1 now"):
            run(tiny_coco, out, resume=True)
        process.communicate()

    def test_second_process_is_rejected_before_the_first_checkpoint(self, tiny_coco: Path, tmp_path: Path) -> None:
        """Two runs that start at once: the second finds no run, only the lock."""
        out, alone = tmp_path / "run", SimpleNamespace(is_main_process=True)
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            with suppress(InputError), run_folder._locked(out):
                os.write(writing, b"x")
                time.sleep(60)
            os._exit(0)
        os.read(reading, 1)
        with pytest.raises(InputError, match=f"trained by process {child} "), run_folder.lock(out, False, alone):
            pass
        assert [path.name for path in out.iterdir()] == [".lock"]
        os.kill(child, 9)
        os.waitpid(child, 0)

    def test_failed_start_leaves_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no such folder"):
            run(tmp_path / "nowhere", tmp_path / "runs" / "run")
        assert list(tmp_path.iterdir()) == []

    def test_second_thread_is_rejected(self, tmp_path: Path) -> None:
        """To one process a POSIX lock is always free, and any handle that it closes ends it."""
        out, found = tmp_path / "run", []

        def second() -> None:
            try:
                with run_folder._locked(tmp_path / "run" / ".." / "run"):
                    pass
            except InputError as error:
                found.append(str(error))

        with run_folder._locked(out):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
            assert "is being trained by this process already" in found[0]
            if (child := os.fork()) == 0:  # the lock is still there for others
                run_folder._locked_folders.clear()
                with suppress(InputError), run_folder._locked(out):
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        with run_folder._locked(out):
            pass

    @pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder", "other"])
    def test_foreign_lock_file_is_kept(self, tmp_path: Path, kind: str) -> None:
        lock, other = tmp_path / "run" / ".lock", tmp_path / "other"
        lock.parent.mkdir()
        if kind == "fifo":
            os.mkfifo(lock)
        elif kind == "folder":
            lock.mkdir()
        elif kind == "other":
            lock.write_text("mine")
        else:
            lock.symlink_to(other)
        if kind == "link":
            other.touch()
        before = lock.lstat().st_mode
        with pytest.raises(InputError, match=r"run/\.lock: not a lock file"):  # noqa: SIM117
            with run_folder._locked(lock.parent):
                pass
        assert lock.lstat().st_mode == before
        assert other.exists() == (kind == "link")
        assert kind != "link" or not other.read_bytes()
        assert kind != "other" or lock.read_text() == "mine"

    def test_lock_file_of_a_killed_training_is_reused(self, tmp_path: Path) -> None:
        (tmp_path / ".lock").write_text("process 1 on a-host-with-a-long-name")
        with run_folder._locked(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
            assert "long-name" not in (tmp_path / ".lock").read_text()

    def test_file_system_without_locks_is_logged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import fcntl

        def none(*_: object) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(fcntl, "lockf", none)
        with run_folder._locked(tmp_path / "run"):
            assert "no locks on this system or file system" in capsys.readouterr().err


class TestUserFiles:
    def test_recipe_is_not_overwritten(self, tmp_path: Path) -> None:
        """By its own name and by a link's; rejected before the data set is opened."""
        file, text = tmp_path / "mine" / "recipe.yaml", "# mine\n" + recipes.load("demo").to_yaml()
        file.parent.mkdir()
        file.write_text(text)
        (tmp_path / "link.yaml").symlink_to(file)
        for path in (file, tmp_path / "link.yaml"):
            with pytest.raises(InputError, match=r"\.yaml: is an input, and would be overwritten"):
                training.train(str(path), tmp_path / "nowhere", file.parent)
        assert [path.name for path in file.parent.iterdir()] == ["recipe.yaml"]
        assert file.read_text() == text
        with pytest.raises(InputError, match="there is no run to resume"):
            training.train(str(file), tmp_path / "nowhere", file.parent, resume=True)

    def test_other_folders_beside_checkpoints_are_kept(self, tmp_path: Path) -> None:
        mine = {"best.old", "last.new", "last.old", "epoch-mine.old", "epoch-1.old", "epoch-0001.old", "best.mine"}
        mine |= {"epoch-mine.boxwright-old", "epoch-1.boxwright-new"}
        for name in mine:
            (tmp_path / name).mkdir()
            (tmp_path / name / "notes").touch()
        for name in ("last", "best", "best", "last"):
            with checkpointing.replace_folder(tmp_path / name) as folder:
                (folder / "file").touch()
        for name in ("last.boxwright-new", "epoch-0007.boxwright-old", "epoch-12345.boxwright-old"):
            (tmp_path / name).mkdir()
        recover(tmp_path)
        found = {path.name for path in tmp_path.iterdir()}
        assert found == mine | {"last", "best", "epoch-0007", "epoch-12345"}
        assert all((tmp_path / name / "notes").exists() for name in mine)

    def test_empty_out_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="--out: found an empty name"):
            training.train("demo", "data", "")
        commands = (
            ["train", "demo", "--data", "x"], ["evaluate", "x", "--data", "x"], ["predict", "x", "x"],
            ["import", "x", "--recipe", "demo"], ["export", "x", "--to", "onnx"], ["quantize", "x", "--data", "x"],
            ["bench", "x"], ["demo"], ["data", "show", "x"], ["data", "tile", "x"], ["data", "tensors", "x"],
            ["data", "convert", "x", "--to", "coco"],
        )  # fmt: skip
        for words in commands:
            with pytest.raises(SystemExit) as end:
                cli.main([*words, "--out", ""])
            assert end.value.code == 2
            assert "--out: found an empty name" in capsys.readouterr().err, words
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        ("train.epochs", 1_000_000), ("train.schedule.lr", 1000), ("train.schedule.warmup_bias_lr", 1000),
        ("data.workers", 256), ("train.batch", 65_536), ("train.accumulate", 65_536), ("evaluate.batch", 65_536),
        ("predict.batch", 65_536),
    ],
)  # fmt: skip
def test_upper_bounds_of_recipe_values(key: str, limit: int) -> None:
    recipes.load("demo", {key: limit})
    for value in (limit + 1, 10**30):
        with pytest.raises(InputError, match=rf"{key}: .* (less than or equal|from 1) to {limit}[ ,]"):
            recipes.load("demo", {key: value})


def swapped(data: Path) -> None:
    (data / "train" / "1.png").rename(data / "1.png")
    (data / "train" / "2.png").rename(data / "train" / "1.png")
    (data / "1.png").rename(data / "train" / "2.png")


def entries_swapped(data: Path) -> None:
    labels = json.loads((data / "annotations" / "train.json").read_text())
    first, second = labels["images"][:2]
    first["file_name"], second["file_name"] = second["file_name"], first["file_name"]
    (data / "annotations" / "train.json").write_text(json.dumps(labels))


def repainted(data: Path) -> None:
    image = cv2.imread(str(data / "train" / "3.png"))
    cv2.imwrite(str(data / "train" / "3.png"), 255 - image)


def other_validation_label(data: Path) -> None:
    labels = json.loads((data / "annotations" / "val.json").read_text())
    labels["annotations"][0]["bbox"][2] += 1
    (data / "annotations" / "val.json").write_text(json.dumps(labels))


def other_validation_image(data: Path) -> None:
    shutil.copy(data / "val" / "1.png", data / "val" / "2.png")


class TestResume:
    @pytest.mark.parametrize(
        ("change", "split"),
        [
            (swapped, "train"),
            (entries_swapped, "train"),
            (repainted, "train"),
            (other_validation_label, "val"),
            (other_validation_image, "val"),
        ],
    )
    def test_rejects_changed_images_or_labels(
        self, copy: Path, tiny_coco: Path, tmp_path: Path, change: Any, split: str
    ) -> None:
        data = shutil.copytree(tiny_coco, tmp_path / "data")
        change(data)
        with pytest.raises(InputError, match=f"the {split} images or labels have changed since"):
            run(data, copy, resume=True)

    def test_data_set_may_be_moved(self, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run of two epochs, killed after the first, continues with a copy of its data set in another folder."""
        save, out, two_epochs = Checkpointer.save_epoch, tmp_path / "run", {"train.epochs": 2}

        def save_and_die(*arguments: Any, **options: Any) -> None:
            save(*arguments, **options)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "save_epoch", save_and_die)
            with pytest.raises(Killed):
                run(tiny_coco, out, two_epochs)
        before = lines(out)
        data = shutil.copytree(tiny_coco, tmp_path / "data", copy_function=shutil.copyfile)
        run(data, out, two_epochs, resume=True)
        after = lines(out)
        assert after[: len(before)] == before
        steps = [line["step"] for line in after[len(before) :] if "lr" in line]
        assert steps == list(range(7, 13)), "12 images in batches of 2: six steps per epoch"

    @pytest.mark.parametrize("change", [{"evaluate.threshold": 0.1}, {"evaluate.nms.iou": 0.4}])
    def test_rejects_changed_evaluation_settings(self, copy: Path, tiny_coco: Path, change: dict[str, object]) -> None:
        with pytest.raises(InputError, match=next(iter(change))):
            run(tiny_coco, copy, ONE | change, resume=True)

    @pytest.mark.parametrize("words", [{"weights": "x.safetensors"}, {"transfer": True}])
    def test_rejects_weights_and_transfer(self, copy: Path, tiny_coco: Path, words: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="--resume continues with the run's own weights; leave --weights"):
            run(tiny_coco, copy, resume=True, **words)

    def test_changed_number_of_threads_is_logged(
        self, copy: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(threads + 1)
            run(tiny_coco, copy, resume=True)
        finally:
            torch.set_num_threads(threads)
        assert f"made with {threads} threads, there are {threads + 1} now" in capsys.readouterr().err
        run(tiny_coco, copy, resume=True)
        assert "threads" not in capsys.readouterr().err, "no checkpoint was made since"

    @pytest.mark.parametrize("line", [b"12\n", b'{"step": "1"}\n', b"\xff\xfe\n", b"null\n", b'{"step": 1, "epoch"\n'])
    def test_damaged_log_is_a_one_line_error(self, copy: Path, tiny_coco: Path, line: bytes) -> None:
        log = copy / "log.jsonl"
        log.write_bytes(log.read_bytes() + line)
        kept = log.read_bytes()
        with pytest.raises(InputError, match=rf"log\.jsonl: line {kept.count(chr(10).encode())}: "):
            run(tiny_coco, copy, resume=True)
        assert log.read_bytes() == kept

    def test_truncated_last_log_line_is_dropped(self, copy: Path, tiny_coco: Path) -> None:
        before = lines(copy)
        with (copy / "log.jsonl").open("ab") as file:
            file.write(b'{"step": 7, "ep')
        run(tiny_coco, copy, resume=True)
        assert lines(copy) == before

    @pytest.mark.parametrize(
        "damage",
        [
            lambda values: values.update(step="6"),
            lambda values: values.update(step=-1),
            lambda values: values.update(best="high"),
            lambda values: values.pop("threads"),
            lambda values: values.update(optimizer={"state": {}}),
            lambda values: values.update(optimizer=torch.optim.Adam([torch.zeros(3)]).state_dict()),
            lambda values: values["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(3)),
            lambda values: values["optimizer"]["state"][0].update(momentum_buffer="x"),
            lambda values: values["optimizer"]["param_groups"].reverse(),
        ],
    )
    def test_invalid_training_state_is_a_one_line_error(self, copy: Path, tiny_coco: Path, damage: Any) -> None:
        file = copy / "last" / "state.pt"
        values = torch.load(file, weights_only=True)
        damage(values)
        torch.save(values, file)
        with pytest.raises(InputError, match=r"state\.pt: (not )?the state of (a run|another optimizer)"):
            run(tiny_coco, copy, resume=True)


@pytest.mark.parametrize("kind", ["sample", "content"])
def test_fingerprint_kinds_of_image_files(tmp_path: Path, kind: Kind) -> None:
    """One byte is changed, so that name and size stay."""
    file, places = tmp_path / "a.bmp", {0, 4095, 6000, 8000, 11_999}
    file.write_bytes(bytes(12_000))
    before, noticed = fingerprint([], ["a"], [str(file)], kind), set()
    for place in places:
        file.write_bytes(bytes(place) + b"x" + bytes(11_999 - place))
        if fingerprint([], ["a"], [str(file)], kind) != before:
            noticed.add(place)
    assert noticed == (places - {6000} if kind == "sample" else places)


class Killed(BaseException):
    pass


@contextmanager
def killed_at(call: int) -> Iterator[list[int]]:
    """A kill played by an exception at the call-th change of the file system; after it nothing happens any more."""
    count = [0]
    with pytest.MonkeyPatch.context() as patch:

        def counted(real: Any) -> Any:
            def wrapper(*args: Any, **words: Any) -> Any:
                count[0] += 1
                if count[0] >= call:
                    raise Killed
                return real(*args, **words)

            return wrapper

        for name in ("open", "rename", "replace", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with suppress(Killed):
            yield count


def checkpointer_of(run: Path, network: nn.Module, **changes: Any) -> Checkpointer:
    recipe = recipes.load("demo", {f"train.{key}": value for key, value in changes.items()})
    optimizer = torch.optim.SGD([{"name": "weight", "params": list(network.parameters())}], momentum=0.9)
    alone = SimpleNamespace(is_main_process=True, scaler=None, device=torch.device("cpu"))
    return Checkpointer(run, recipe, network, None, optimizer, alone)


def test_checkpoints_of_short_epochs_are_throttled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving takes 3 s and an epoch 10: of 100 s one is saved, and the last."""
    clock, saved = [0.0], []

    def save(self: Checkpointer, name: str, state: TrainState) -> None:
        clock[0] += 3
        saved.append((name, state.step))

    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Checkpointer, "save", save)
    checkpointer = checkpointer_of(tmp_path, nn.Linear(1, 1))
    for epoch in range(1, 17):
        clock[0] += 10
        checkpointer.save_epoch(epoch, TrainState(step=epoch), final=epoch == 16)
    assert saved == [("last", 1), ("last", 11), ("last", 16)]  # the second 100 s after the first


def test_numbered_checkpoints_survive_a_kill_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, checkpointing):
        monkeypatch.setattr(module, "sync", lambda path: None)  # no power cut is played
    network = nn.Linear(1, 1)
    checkpointer = checkpointer_of(tmp_path / "run", network, keep_checkpoints=1)

    def epochs(until: int) -> None:
        """As in training: each epoch has its number for a weight."""
        state = checkpointer.restore(TrainState())
        for epoch in range(state.step + 1, until + 1):
            with torch.no_grad():
                network.weight.fill_(epoch)
            state.step = epoch
            checkpointer.save_epoch(epoch, state, final=True)

    checkpointer.run.mkdir()
    checkpointer.save("last", TrainState())
    epochs(2)
    shutil.copytree(checkpointer.run, tmp_path / "begun")
    with killed_at(10**9) as count:
        epochs(3)
    assert count[0] > 20
    for call in range(1, count[0] + 1):
        shutil.rmtree(checkpointer.run)
        shutil.copytree(tmp_path / "begun", checkpointer.run)
        with killed_at(call):
            epochs(3)
        recover(checkpointer.run)
        epochs(3)
        kept = {path.name for path in checkpointer.run.iterdir() if not path.name.endswith(".part")}
        assert kept == {"last", "epoch-0003"}, f"killed at {call}"
        for name in kept:
            found = torch.load(checkpointer.run / name / "state.pt", weights_only=True)["step"]
            checkpointer.network.load_state_dict(
                checkpointing.checkpoint.read_tensors(checkpointer.run / name / "model.safetensors")
            )
            assert (found, network.weight.item()) == (3, 3), f"killed at {call}"


class TestFullDisk:
    def test_any_file_is_a_one_line_error_and_resumable(self, finished: Path, tiny_coco: Path, tmp_path: Path) -> None:
        """The disk is full at another file each time; the run can be resumed when there is space again."""
        sizes = sorted({path.stat().st_size for path in finished.rglob("*") if path.is_file()})
        out, messages = tmp_path / "run", set()
        for limit in (10, sizes[-1] - 1, 5000):
            with pytest.raises(InputError, match="cannot be written") as error, no_file_beyond(limit):
                run(tiny_coco, out, resume=(out / "last").exists())
            assert "\n" not in str(error.value)
            assert ".part" not in str(error.value)
            messages.add(str(error.value))
            assert not list(out.glob("*.part")) + list(out.glob("*.boxwright-new"))
        assert len(messages) > 1
        run(tiny_coco, out, resume=(out / "last").exists())
        expected, found = tensors(finished / "last"), tensors(out / "last")
        assert all(expected[name].equal(found[name]) for name in expected)

    @pytest.mark.parametrize("name", ["log.jsonl", "events"])
    def test_log_and_event_files(self, tiny_coco: Path, tmp_path: Path, name: str) -> None:
        """TensorBoard's own writer would raise this in a thread."""
        from boxwright.engine.log import TrainLogger
        from boxwright.engine.trackers import Trackers

        alone = SimpleNamespace(device=torch.device("cpu"), is_main_process=True)
        chosen = recipes.load("demo")
        trackers = Trackers(tmp_path, chosen, 0, alone)
        log = TrainLogger(tmp_path, alone, chosen.train, 0, trackers)
        line = {"x" * 100: 1.0} if name == "events" else {"x": 1.0}

        def write() -> None:
            for step in range(20):
                log.evaluated(step, 0, line)

        with pytest.raises(InputError, match=r"log\.jsonl: cannot be written \(File too large\)"), no_file_beyond(300):
            write()
        log.close()
        trackers.close()


def test_deleted_run_folder_is_a_one_line_error(tiny_coco: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = training.evaluate_epoch

    def deleted(*args: Any) -> None:
        real(*args)
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(training, "evaluate_epoch", deleted)
    with pytest.raises(InputError, match=r"run/last: the checkpoint cannot be written \(No such file or directory\)"):
        run(tiny_coco, tmp_path / "run")


def test_curves_are_read_by_tensorboard(tmp_path: Path) -> None:
    for start_at in (1, 3):
        events = Events(tmp_path, start_at)
        events.write(start_at, {"AP": 0.5, "loss/box": start_at})
        events.close()
    found = [list(EventFileLoader(str(file)).Load()) for file in sorted(tmp_path.iterdir())]
    assert [[event.step for event in each] for each in found] == [[0, 1, 1], [0, 3, 3]]
    points = {value.tag: value.tensor.float_val[0] for value in found[1][2].summary.value}
    assert points == {"AP": 0.5, "loss/box": 3.0}
    assert found[1][1].session_log.status == 1, "START: earlier points from here on do not count"


def test_evaluation_does_not_overwrite_its_inputs(finished: Path, tiny_coco: Path, tmp_path: Path) -> None:
    from boxwright.formats import open_dataset

    data = shutil.copytree(tiny_coco, tmp_path / "data")
    labels = json.loads((data / "annotations" / "val.json").read_text())
    labels["images"][0]["file_name"] = "sheet.jpg"
    (data / "annotations" / "val.json").write_text(json.dumps(labels))
    (data / "val" / "1.png").rename(data / "val" / "sheet.jpg")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"sheet\.jpg: is an input, and would be overwritten"):
        evaluate(load(finished), open_dataset(data, "val"), data / "val")
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
