"""Run folders in an object store: every checkpoint arrives complete or not at all."""

import json
import shutil
from pathlib import Path

import pytest

from boxwright.engine.checkpointing import replace_folder
from boxwright.errors import InputError
from boxwright.remote import runs, stores
from boxwright.remote.address import parse
from boxwright.remote.folders import local_path
from boxwright.remote.run_upload import RunUpload, remote_run
from boxwright.weights.files import locate
from object_store import Store

RUN = parse("s3://bucket/runs/one")


def save(upload: RunUpload, name: str, content: str) -> None:
    """Save a checkpoint of two files as a training does, and send it."""
    upload.path.mkdir(exist_ok=True)
    with replace_folder(upload.path / name) as folder:
        (folder / "model.safetensors").write_text(content)
        (folder / "state.pt").write_text(content)
    upload.send()


def found(store: Store, name: str = "last") -> set[str]:
    """The contents of the files of a checkpoint, as a reader sees them."""
    run = runs.read_run(RUN)
    assert run is not None
    members = {key: each for key, each in run.members().items() if key.startswith(f"{name}/")}
    assert set(members) == {f"{name}/model.safetensors", f"{name}/state.pt"}
    return {store.get(each.uri.removeprefix("s3://")).decode() for each in members.values()}


def test_new_checkpoints_replace_earlier_ones(store: Store, tmp_path: Path) -> None:
    with remote_run(RUN, resume=False) as upload:
        for number in range(3):
            save(upload, "last", f"{number}")
            save(upload, f"epoch-{number:04}", f"{number}")
            (upload.path / "log.jsonl").write_text(f"{number}\n")
            if number:
                shutil.rmtree(upload.path / f"epoch-{number - 1:04}")
        (upload.path / ".lock").write_text("process 1")
        (upload.path / "plots").mkdir()
        (upload.path / "plots" / "a.png").write_text("picture")
        upload.finish()
    assert found(store) == {"2"}
    assert json.loads(store.get("bucket/runs/one/run.json"))["checkpoints"].keys() == {"last", "epoch-0002"}
    names = [key.removeprefix("runs/one/") for key in store.keys("bucket")]
    assert len([name for name in names if name.endswith("state.pt")]) == 2  # nothing is left of earlier ones
    assert {name for name in names if "-" not in name} == {"log.jsonl", "plots/a.png", "run.json"}
    assert not list((tmp_path / "cache" / "runs").rglob("*.pt"))


def test_checkpoints_are_found_by_the_run_address(store: Store) -> None:
    with remote_run(RUN, resume=False) as upload:
        save(upload, "last", "new")
        save(upload, "best", "good")
        upload.finish()
    tree = local_path("s3://bucket/runs/one")
    assert sorted(path.name for path in tree.iterdir()) == ["best", "last"]
    assert locate(tree).read_text() == "good"
    assert locate(local_path("s3://bucket/runs/one/last")).read_text() == "new"
    assert str(InputError(f"{tree}/best/model.safetensors: x")) == "s3://bucket/runs/one/best/model.safetensors: x"
    with pytest.raises(InputError, match="there is no such object or folder"):
        local_path("s3://bucket/runs/one/epoch-0009/x")
    with pytest.raises(InputError, match="holds a run already"), remote_run(RUN, resume=False):
        pass
    with pytest.raises(InputError, match="there is no run to resume"), remote_run(parse("s3://bucket/x"), resume=True):
        pass


@pytest.mark.parametrize("broken", ["state.pt", "run.json", "model.safetensors"])
def test_failed_upload_keeps_the_last_complete_checkpoint(
    store: Store, broken: str, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 0)
    with remote_run(RUN, resume=False) as upload:
        save(upload, "last", "old")
        upload.finish()
        store.broken = broken
        save(upload, "last", "new")
        with pytest.raises(InputError, match=r"cannot be written \(the server answers SlowDown\)"):
            upload.finish()
        assert found(store) == {"old"}
        assert any("it is sent with the next checkpoint" in line for line in log)
        store.broken = ""
        save(upload, "best", "other")  # the next checkpoint sends the earlier one, too
        upload.finish()
        assert found(store) == {"new"}
        assert found(store, "best") == {"other"}


def test_resume_uses_local_checkpoint_that_was_not_uploaded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 0)

    def interrupted() -> None:
        with remote_run(RUN, resume=False) as upload:
            save(upload, "last", "old")
            upload.finish()
            store.broken = "."
            save(upload, "last", "new")
            upload.finish()

    with pytest.raises(InputError, match="cannot be written"):
        interrupted()
    store.calm()
    with remote_run(RUN, resume=True) as upload:
        assert (upload.path / "last" / "state.pt").read_text() == "new"
        upload.finish()
    assert not [path for path in store.read() if path.endswith("state.pt")]  # nothing was fetched
    assert found(store) == {"new"}


def test_resume_of_a_run_without_any_upload(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 0)

    def unsent() -> None:
        with remote_run(RUN, "auto") as upload:
            save(upload, "last", "kept")
            store.broken = "."
            upload.finish()

    store.broken = "."
    with pytest.raises(InputError, match="cannot be written"):
        unsent()
    store.calm()
    reason = "an earlier run was not sent; continue it with --resume"
    with pytest.raises(InputError, match=reason), remote_run(RUN, resume=False):
        pass
    with remote_run(RUN, "auto") as upload:
        upload.finish()
    assert found(store) == {"kept"}


def test_resume_ignores_an_outdated_local_copy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy that is left in the cache is older then, and not used."""

    def killed(resume: bool, content: str) -> None:
        with remote_run(RUN, resume) as upload:
            save(upload, "last", content)
            upload.finish()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed(False, "here")
    here = str(tmp_path / "cache")
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(KeyboardInterrupt):
        killed(True, "elsewhere")
    monkeypatch.setenv("BOXWRIGHT_CACHE", here)
    with remote_run(RUN, resume=True) as upload:
        assert (upload.path / "last" / "state.pt").read_text() == "elsewhere"
        upload.finish()
    assert found(store) == {"elsewhere"}


def test_lost_response_after_an_upload(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.json` has arrived then, and is not that of another process."""
    monkeypatch.setitem(stores.RETRIES, "max_retries", 0)
    store.put("bucket/runs/one/last-0123456789abcdef/state.pt", b"of a run that was killed")
    with remote_run(RUN, resume=False) as upload:
        save(upload, "last", "old")
        upload.finish()
        store.lost = "run.json"
        save(upload, "last", "new")
        with pytest.raises(InputError, match="cannot be written"):
            upload.finish()
        assert found(store) == {"new"}
        store.lost = ""
        save(upload, "last", "newer")
        upload.finish()
    assert found(store) == {"newer"}
    assert len([key for key in store.keys("bucket") if key.endswith("state.pt")]) == 1


def test_concurrent_training_of_one_run_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_run(RUN, resume=False) as first:
        with pytest.raises(InputError, match="is being trained by another process"), remote_run(RUN, resume=False):
            pass
        monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "elsewhere"))  # another machine
        with remote_run(RUN, resume=False) as second:
            save(second, "last", "second")
            second.finish()
        save(first, "last", "first")
        with pytest.raises(InputError, match="another process trains there"):
            first.finish()
    assert found(store) == {"second"}


def test_checkpoint_replaced_while_it_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with remote_run(RUN, resume=False) as upload:
        save(upload, "last", "old")
        upload.finish()
        old = runs.read_run(RUN)
        assert old is not None
        save(upload, "last", "new")
        upload.finish()  # and the old one is deleted
    members = old.members()
    assert {store.get(each.uri.removeprefix("s3://")) for name, each in members.items() if "last/" in name} == {b"new"}
    for key in [key for key in store.keys("bucket") if key.endswith((".pt", ".safetensors"))]:
        store.call("DELETE", f"/bucket/{key}")
    with pytest.raises(InputError, match=r"a checkpoint that run\.json names is missing"):
        old.members()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"x", "run.json"),
        (b"[]", "not that of a run folder"),
        (b'{"checkpoints": 1}', "not that of a run folder"),
        (b'{"checkpoints": {"last": "../../other"}}', r"found '\.\./\.\./other' for 'last'"),
        (b'{"checkpoints": {"last": "best-0123456789abcdef"}}', "found 'best-0123456789abcdef' for 'last'"),
        (b'{"checkpoints": {"last": 3}}', "found '3'"),
    ],
)
def test_invalid_run_json_is_an_error(store: Store, content: bytes, fault: str) -> None:
    store.put("bucket/runs/one/run.json", content)
    with pytest.raises(InputError, match=fault):
        local_path("s3://bucket/runs/one")


@pytest.mark.slow
def test_upload_does_not_block_training(store: Store) -> None:
    """Checkpoints that come faster than they are sent are left out, but not the last one."""
    with remote_run(RUN, resume=False) as upload:
        store.latency = 0.1
        for number in range(6):
            save(upload, "last", f"{number}")
            assert not has_backlog(upload)
        upload.finish()
    store.latency = 0.0
    assert found(store) == {"5"}
    sent = [path for method, path, _ in store.requests if method == "PUT" and path.endswith("state.pt")]
    assert len(sent) < 6


def has_backlog(upload: RunUpload) -> bool:
    return len(list((upload.path.parent / "linked").iterdir())) > 2


@pytest.mark.parametrize("address", ["s3://bucket", "https://host/run"])
def test_invalid_run_addresses_are_rejected(store: Store, address: str) -> None:
    with pytest.raises(InputError, match="a run cannot be stored there"), remote_run(parse(address), resume=False):
        pass
