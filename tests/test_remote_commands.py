"""Commands that read from an object store and write to it."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import boxwright
from boxwright import cli, files
from boxwright.batches.loader import Loader
from boxwright.cache import VARIABLE
from boxwright.errors import InputError
from boxwright.formats import open_boxes, splits
from boxwright.images import tiff
from boxwright.images.windows import Window, open_scene
from boxwright.recipe import CanvasConfig
from boxwright.remote import cache, folders, members, outputs, run_upload, stores
from boxwright.remote.folders import local_data, local_path
from boxwright.remote.outputs import local_output
from object_store import Store

RECIPE = "yolov3_tiny_coco_416_darknet"
SMALL = {
    "model.width": 0.0625,
    "data.canvas.size": [32, 32],
    "data.workers": 2,
    "train.epochs": 1,
    "train.batch": 2,
    "train.schedule.warmup_epochs": 0,
    "train.precision": "no",
    "train.evaluate_every": 0,
}


@pytest.fixture(scope="module")
def yolo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO folder: 6 images to train on and 2 to validate, 32 x 32 px."""
    root, draw = tmp_path_factory.mktemp("made") / "set", np.random.default_rng(1)
    for split, count in (("train", 6), ("val", 2)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for number in range(count):
            image = draw.integers(0, 100, (32, 32, 3)).astype(np.uint8)
            image[4:20, 6:22] = 200
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            (root / "labels" / split / f"{number}.txt").write_text("0 0.4375 0.375 0.5 0.5\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [box]\n")
    return root


@pytest.fixture(scope="module")
def archive(yolo_folder: Path) -> bytes:
    """The same as a ZIP archive."""
    file = yolo_folder.parent / "set.zip"
    with zipfile.ZipFile(file, "w") as written:
        for path in sorted(yolo_folder.rglob("*")):
            if path.is_file():
                written.write(path, path.relative_to(yolo_folder))
    return file.read_bytes()


@pytest.fixture(scope="module")
def run(yolo_folder: Path) -> Path:
    """A run on the local folder."""
    train(yolo_folder, yolo_folder.parent / "run")
    return yolo_folder.parent / "run"


def train(data: Path | str, out: Path | str, **changes: object) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        boxwright.train(RECIPE, data, out, overrides=SMALL | {"data.workers": 0} | changes)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in an empty folder; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as leaving:
            cli.main(list(words))
        captured = capsys.readouterr()
        assert leaving.value.code == status, captured.err
        assert str(tmp_path / "cache") not in captured.out + captured.err
        return captured.out if status != 2 else captured.err

    return call


def weights_of(store: Store, uri: str, tmp_path: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """The network of a remote run, located by `run.json`."""
    folder = json.loads(store.get(f"{uri}/run.json"))["checkpoints"][name]
    (tmp_path / "fetched.safetensors").write_bytes(store.get(f"{uri}/{folder}/model.safetensors"))
    return load_file(tmp_path / "fetched.safetensors")


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"], indirect=True)
def test_train_from_a_remote_archive_to_a_remote_run(
    store: Store, archive: bytes, run: Path, start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("bucket/data/set.zip", archive)
    monkeypatch.setitem(stores.RETRIES["backoff"], "init_backoff", stores.timedelta(seconds=0.01))
    store.fail_every, store.reset = 0 if start_method == "spawn" else 3, start_method == "forkserver"
    # the folder of an archive, as in ModelArts
    workers = 2 if start_method == "fork" else 1
    train("s3://bucket/data", "s3://bucket/runs/one", **{"data.workers": workers})
    store.calm()
    assert_equal(weights_of(store, "bucket/runs/one", tmp_path), load_file(run / "last" / "model.safetensors"))
    assert not list((tmp_path / "cache" / "runs").rglob("*.safetensors"))


@pytest.mark.slow
def test_incomplete_upload_of_a_run_is_an_error(
    store: Store, yolo_folder: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 0)
    store.broken = "metrics.json"
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    words = [
        "train",
        RECIPE,
        "--data",
        str(yolo_folder),
        "--out",
        "s3://bucket/run",
        *settings,
        "--set",
        "data.workers=0",
    ]
    error = command(*words, status=2)
    assert error.splitlines()[-1].startswith("boxwright: s3://bucket/run/metrics.json: cannot be written (")
    store.calm()
    assert command(*words, "--resume").splitlines()[-1] == "s3://bucket/run"
    assert json.loads(store.get("bucket/run/metrics.json"))["images"] == 2


@pytest.mark.slow
def test_remote_folder_is_fetched_once(store: Store, yolo_folder: Path, run: Path, tmp_path: Path) -> None:
    """By forked workers, too, and not again by a second run."""
    store.put_folder("bucket/set", yolo_folder)
    train("s3://bucket/set", "s3://bucket/runs/one", **{"data.workers": 1, "train.epochs": 2})
    data = [path for path in store.read() if path.startswith("bucket/set/")]
    assert sorted(data) == sorted(
        f"bucket/set/{file.relative_to(yolo_folder)}" for file in yolo_folder.rglob("*") if file.is_file()
    )
    assert "s3://bucket/set" in store.get("bucket/runs/one/recipe.yaml").decode()
    store.calm()
    folders.forget()
    train("s3://bucket/set", tmp_path / "two")
    assert store.read() == []
    assert_equal(load_file(tmp_path / "two/last/model.safetensors"), load_file(run / "last/model.safetensors"))


@pytest.mark.slow
def test_worker_refetches_evicted_objects(store: Store, yolo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache too small for the set, under fork, where obstore does not work in the worker."""
    store.put_folder("bucket/set", yolo_folder)
    dataset = open_boxes("s3://bucket/set", "train")
    forget_images(store)
    loader = Loader(dataset, CanvasConfig(size=(32, 32)), 2, workers=1)
    local = Loader(open_boxes(yolo_folder, "train"), CanvasConfig(size=(32, 32)), 2)
    for batch, wanted in zip(loader.epochs(0, 2), local.epochs(0, 2), strict=True):
        assert torch.equal(batch.images, wanted.images)
    loader.close()
    assert sorted(store.read()) == [f"bucket/set/images/train/{number}.png" for number in range(6)]


def forget_images(store: Store) -> None:
    """Remove the images from the cache, which read them for their sizes."""
    for file in (folders.cache_folder() / "objects").glob("*.png"):
        file.unlink()
    store.calm()


@pytest.mark.slow
def test_next_batch_is_prefetched(store: Store, yolo_folder: Path) -> None:
    """All of a batch at a time, and the next one before it is needed."""
    store.put_folder("bucket/set", yolo_folder)
    dataset = open_boxes("s3://bucket/set", "train")
    forget_images(store)
    store.latency = 0.15
    loader = Loader(dataset, CanvasConfig(size=(32, 32)), 2)
    batches = loader.epochs(0, 1)
    next(batches)
    store.waited.clear()
    while len(store.read()) < 4:  # asked for without being needed yet
        assert store.waited.wait(10)
        store.waited.clear()
    assert store.most == 2
    assert len(list(batches)) == 2


def test_labels_are_prefetched_once(store: Store, yolo_folder: Path) -> None:
    store.put_folder("bucket/set", yolo_folder)
    store.latency = 0.05
    tree = local_data("s3://bucket/set/data.yaml")
    assert tree.name == "data.yaml"
    assert store.most > 4
    labels = store.read()
    assert len(labels) == 9
    assert sorted(splits("s3://bucket/set/data.yaml")) == ["train", "val"]
    assert len(open_boxes("s3://bucket/set/data.yaml", "val")) == 2
    assert [path for path in store.read() if not path.endswith(".png")] == labels


def test_data_yaml_with_remote_folders(store: Store, yolo_folder: Path, archive: bytes, tmp_path: Path) -> None:
    store.put_folder("bucket/in/set", yolo_folder)
    store.put("bucket/set.zip", archive)
    (tmp_path / "data.yaml").write_text(
        "train: s3://bucket/in/set/images/train\nval: s3://bucket/in/set/images/val\nnames: [box]\n"
    )
    assert len(open_boxes(tmp_path / "data.yaml", "train")) == 6
    (tmp_path / "data.yaml").write_text("path: s3://bucket/in/set\ntrain: images/train\nnames: [box]\n")
    assert len(open_boxes(tmp_path / "data.yaml", "train")) == 6
    (tmp_path / "sets.yaml").write_text("sets: [s3://bucket/set.zip, {path: s3://bucket/in/set, weight: 2}]\n")
    both = open_boxes(tmp_path / "sets.yaml", "train")
    assert len(both) == 12
    (tmp_path / "data.yaml").write_text(f"train: {store.url}/x/images\nnames: [box]\n")
    store.calm()
    with pytest.raises(InputError, match="there is no"):
        open_boxes(tmp_path / "data.yaml", "train")
    assert not store.requests  # files may not name web servers


def test_sharded_archives(store: Store, yolo_folder: Path) -> None:
    for number, pattern in enumerate(("images/**/*", "labels/**/*")):
        with zipfile.ZipFile(yolo_folder.parent / "shard.zip", "w") as written:
            for path in sorted(yolo_folder.glob(pattern)):
                if path.is_file():
                    written.write(path, path.relative_to(yolo_folder))
            if number:
                written.writestr("data.yaml", (yolo_folder / "data.yaml").read_text())
        store.put(f"bucket/shards/set-{number:03}.zip", (yolo_folder.parent / "shard.zip").read_bytes())
    assert len(open_boxes("s3://bucket/shards", "train")) == 6
    assert len(open_boxes("s3://bucket/shards/set-{000..001}.zip", "val")) == 2
    assert len(open_boxes("s3://bucket/shards/set-*.zip", "train")) == 6
    with pytest.raises(InputError, match=r"1 of 3 archives are missing"):
        open_boxes("s3://bucket/shards/set-{000..002}.zip", "train")
    with pytest.raises(InputError, match=r"s3://bucket/shards/x-\*\.zip: there is no such archive"):
        open_boxes("s3://bucket/shards/x-*.zip", "train")


def test_archive_patterns_and_missing_archives(store: Store) -> None:
    """As locally: `*` does not match `/`, and a folder of folders of archives is not a set of archives."""
    for name in ("a", "b"):
        with zipfile.ZipFile(content := io.BytesIO(), "w") as written:
            written.writestr(f"{name}.txt", name)
        store.put(f"bucket/in/{name}/set.zip", content.getvalue())
        store.put("bucket/in/set-000.zip", content.getvalue())
    both = local_data("s3://bucket/in/*/set.zip")
    assert sorted(path.name for path in both.iterdir()) == ["a.txt", "b.txt"]
    assert [path.name for path in local_data("s3://bucket/in/*.zip").iterdir()] == ["b.txt"]
    assert sorted(path.name for path in local_data("s3://bucket/in").iterdir()) == ["a", "b", "set-000.zip"]
    with pytest.raises(InputError, match=r"1 of 2 archives are missing, the first s3://bucket/in/set-001\.zip"):
        local_data("s3://bucket/in/set-{000..001}.zip")


@pytest.mark.slow
def test_commands_read_from_and_write_to_the_store(
    store: Store, yolo_folder: Path, archive: bytes, run: Path, command: Callable[..., str]
) -> None:
    store.put_folder("bucket/set", yolo_folder)
    store.put("bucket/set.zip", archive)
    store.put_folder("bucket/copied", run)  # by another program, so without run.json
    weights = "s3://bucket/copied"
    printed = command(
        "predict", weights, "s3://bucket/set/images/val", "--out", "s3://bucket/found", "--threshold", "0"
    )
    assert "s3://bucket/found" in printed
    found = json.loads(store.get("bucket/found/detections.json"))
    local = command("predict", str(run), str(yolo_folder / "images" / "val"), "--out", "found", "--threshold", "0")
    wanted = json.loads(Path("found/detections.json").read_text())
    assert local.splitlines()[0] == printed.splitlines()[0]
    assert [row["detections"] for row in found["images"]] == [row["detections"] for row in wanted["images"]]
    assert [row["file"] for row in found["images"]] == [f"s3://bucket/set/images/val/{n}.png" for n in range(2)]
    assert store.get("bucket/found/0.png") == Path("found/0.png").read_bytes()
    for source, count in (("s3://bucket/set/images/train/*.png", 6), ("s3://bucket/set/images/val/1.png", 1),
                          ("s3://bucket/set.zip", 8), ("s3://bucket/set.zip/images/val", 2)):  # fmt: skip
        assert f"{count} image" in command("predict", weights, source, "--no-draw", "--out", "s3://bucket/more")
    command("evaluate", weights, "--data", "s3://bucket/set", "--out", "s3://bucket/copied/evaluation")
    metrics = json.loads(store.get("bucket/copied/evaluation/metrics.json"))
    assert metrics == json.loads((run / "metrics.json").read_text()) | {"data": "s3://bucket/set"}
    command("data", "convert", "s3://bucket/set.zip", "--to", "coco", "-o", "s3://bucket/coco", "--outside")
    copies = [key for key in store.keys("bucket") if key.startswith("coco/") and key.endswith("train/5.png")]
    assert store.get(f"bucket/{copies[0]}") == (yolo_folder / "images/train/5.png").read_bytes()
    assert "needed a new or empty folder" in command(
        "data", "convert", "s3://bucket/set.zip", "--to", "coco", "-o", "s3://bucket/coco", status=2
    )
    command("data", "check", "s3://bucket/coco", "--report", "s3://bucket/report.json")
    assert json.loads(store.get("bucket/report.json"))["errors"] == 0
    store.put("bucket/recipe.yaml", store.get("bucket/copied/recipe.yaml"))
    assert "s3" not in command("show", "s3://bucket/recipe.yaml")
    assert "which is read" in command("predict", weights, "s3://bucket/set", "--out", "s3://bucket/set/x", status=2)


@pytest.mark.slow
def test_remote_table_shards(store: Store, yolo_folder: Path, run: Path, command: Callable[..., str]) -> None:
    """Shards that are in the store already are not predicted again, and merged from there."""
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    store.put_folder("bucket/set", yolo_folder)
    table = ("--out", "s3://bucket/table")
    first = [command("predict", str(run), "s3://bucket/set", "--shard", f"{n}/2", *table) for n in (1, 2)]
    again = [command("predict", str(run), "s3://bucket/set", "--shard", f"{n}/2", *table) for n in (1, 2)]
    assert [line.partition(" images were in the table already")[0] for line in again] == [
        f"{count} of {count}" for count in (int(line.split()[0]) for line in first)
    ]
    error = command("predict", str(run), "s3://bucket/set", "--shard", "1/2", "--threshold", "0.9", *table, status=2)
    assert "threshold" in error
    assert "8 images" in command("merge-shards", "s3://bucket/table", "-o", "s3://bucket/all.parquet")
    assert sorted(key for key in store.keys("bucket") if not key.startswith("set/")) == [
        "all.parquet", *(f"table/detections-0000{n}-of-00002.parquet" for n in (1, 2)), "table/table.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_remote_video(store: Store, run: Path, command: Callable[..., str]) -> None:
    av = pytest.importorskip("av")
    with av.open("clip.mp4", "w") as written:
        stream = written.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * number, np.uint8), format="rgb24")
            written.mux(stream.encode(frame))
        written.mux(stream.encode())
    store.put("bucket/in/clip.mp4", Path("clip.mp4").read_bytes())
    command("predict", str(run), "s3://bucket/in/clip.mp4", "--out", "s3://bucket/found")
    found = json.loads(store.get("bucket/found/detections.json"))
    assert found["video"] == "s3://bucket/in/clip.mp4"
    assert len(found["frames"]) == 3
    assert store.get("bucket/found/clip.mp4")[4:8] == b"ftyp"


def test_report_is_uploaded_if_data_check_finds_errors(
    store: Store, yolo_folder: Path, command: Callable[..., str]
) -> None:
    store.put_folder("bucket/set", yolo_folder)
    store.put("bucket/set/labels/train/0.txt", b"0 2 2 2 2\n")
    command("data", "check", "s3://bucket/set", "--report", "s3://bucket/report.json", "--cache", "other", status=1)
    assert json.loads(store.get("bucket/report.json"))["errors"] == 1
    assert Path("other/objects").is_dir()
    error = command("data", "check", "s3://bucket/none", "--report", "s3://bucket/other.json", status=2)
    assert error == "boxwright: s3://bucket/none: there is no such object or folder; correct its name\n"
    assert "bucket/other.json" not in store.keys("bucket")
    assert "needed a size" in command("data", "check", "x", "--cache-size", "much", status=2)


def write(uri: str, name: str, fail: bool = False) -> None:
    """A command that writes one file into a folder."""
    with local_output(uri) as out:
        out.mkdir()
        (out / name).write_text("written")
        assert not fail


def test_results_of_a_failed_upload_are_kept(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 0)
    store.broken = "b.txt"
    reason = r"^s3://bucket/out/b\.txt: cannot be written \(the server answers SlowDown\); the results are in /"
    with pytest.raises(InputError, match=reason) as raised:
        write("s3://bucket/out", "b.txt")
    kept = Path(str(raised.value).rpartition("the results are in ")[2])
    assert (kept / "out" / "b.txt").read_text() == "written"
    store.calm()
    with pytest.raises(AssertionError):
        write("s3://bucket/out", "c.txt", fail=True)
    assert store.keys("bucket") == []
    shutil.rmtree(kept)
    assert list((tmp_path / "cache" / "outputs").iterdir()) == []


def test_results_of_a_killed_process_are_removed(store: Store, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "outputs"
    process = multiprocessing.get_context("fork").Process(target=killed, args=("s3://bucket/out",))
    process.start()
    process.join()
    assert [path.read_text() for path in left.rglob("*.txt")] == ["half"]
    files.remove_leftovers.cache_clear()  # as in a new process
    write("s3://bucket/out", "b.txt")
    assert list(left.iterdir()) == []
    assert store.keys("bucket") == ["out/b.txt"]


def killed(uri: str) -> None:
    outputs.check_bucket = lambda address: None  # type: ignore[assignment]  # no obstore after a fork
    with local_output(uri) as out:
        out.mkdir()
        (out / "a.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_outputs_never_replace_inputs(store: Store) -> None:
    store.put("bucket/in/1.jpg", b"x")
    local_path("s3://bucket/in/1.jpg")
    with pytest.raises(InputError, match=r"s3://bucket/in/1\.jpg: is read, and would be replaced"):
        write("s3://bucket/in", "1.jpg")
    assert store.get("bucket/in/1.jpg") == b"x"


@pytest.mark.slow
def test_archive_on_a_web_server_is_read_as_images(
    store: Store, archive: bytes, run: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    store.put("bucket/set.zip", archive)
    store.public = True
    address = f"{store.url.replace('//', '//me:secret@')}/bucket/set.zip?sig=secret"
    assert "8 images" in command("predict", str(run), address, "--no-draw", "--out", "found")
    assert "secret" not in (tmp_path / "found" / "detections.json").read_text()


def test_remote_parquet_files_with_embedded_images(store: Store, command: Callable[..., str], tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    encoded = cv2.imencode(".png", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    row = {"image": {"bytes": encoded, "path": "a.png"}, "objects": {"bbox": [[20, 20, 8, 10]], "category": ["box"]}}
    parquet.write_table(arrow.Table.from_pylist([row] * 3), tmp_path / "train.parquet")
    store.put("bucket/set/train.parquet", (tmp_path / "train.parquet").read_bytes())
    command("data", "convert", "s3://bucket/set", "--to", "coco", "-o", "s3://bucket/coco")
    images = [key for key in store.keys("bucket") if key.endswith(".png")]
    assert [store.get(f"bucket/{key}") for key in images] == [encoded] * 3


@pytest.mark.parametrize("data", ["set", "zips"])
def test_outputs_inside_an_input_are_rejected(store: Store, yolo_folder: Path, archive: bytes, data: str) -> None:
    store.put_folder("bucket/set", yolo_folder)
    store.put("bucket/zips/set.zip", archive)
    local_data(f"s3://bucket/{data}")
    with pytest.raises(InputError, match=rf"^s3://bucket/{data}/out: lies in s3://bucket/{data}, which is read"):
        write(f"s3://bucket/{data}/out", "1.jpg")
    with pytest.raises(InputError, match=rf"^s3://bucket/{data}/run: lies in s3://bucket/{data}, which is read"):
        train(f"s3://bucket/{data}", f"s3://bucket/{data}/run")
    assert not any("/out/" in key or "/run/" in key for key in store.keys("bucket"))


def test_missing_bucket_is_an_error_before_the_work(store: Store) -> None:
    def work() -> None:
        with local_output("s3://missing/out"):
            pytest.fail("worked for nothing")

    with pytest.raises(InputError, match=r"there is no such bucket; create it"):
        work()


def test_error_before_training_uploads_nothing(store: Store, tmp_path: Path) -> None:
    """An error is reported, although there is no run folder to upload yet; nothing is uploaded."""
    with pytest.raises(InputError, match=r"^s3://bucket/typo: there is no such object"):
        train("s3://bucket/typo", "s3://bucket/run")
    assert store.keys("bucket") == []


@pytest.mark.slow
def test_scene_windows_are_read_by_range_requests(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(3).integers(0, 255, (3, 1024, 1024)).astype(np.uint8)
    profile = {"driver": "GTiff", "height": 1024, "width": 1024, "count": 3, "dtype": "uint8", "tiled": True,
               "blockxsize": 256, "blockysize": 256, "transform": rasterio.Affine(10, 0, 500000, 0, -10, 4000000),
               "crs": "EPSG:32650"}  # fmt: skip
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as written:
        written.write(pixels)
    content = (tmp_path / "scene.tif").read_bytes()
    store.put("bucket/scene.tif", content)
    monkeypatch.setattr(members, "RANGED", 1 << 20)
    monkeypatch.setattr(members, "BLOCK", 1 << 14)
    with open_scene(local_path("s3://bucket/scene.tif")) as scene:
        assert scene.georeference is not None
        assert np.array_equal(scene.read(Window(300, 300, 100, 80)), pixels[:, 300:380, 300:400].transpose(1, 2, 0))
    fetched = sum(size for method, _, size in store.requests if method == "GET")
    assert 256 * 256 * 3 < fetched < 256 * 256 * 3 + 20 * (1 << 14) < len(content) / 5
    with tiff.open_pages(local_path("s3://bucket/scene.tif")) as pages:
        assert len(pages) == 1
    assert not (tmp_path / "cache" / "objects").exists()
    assert boxwright.files.read_bytes(local_path("s3://bucket/scene.tif")) == content  # all of it: into the cache
    assert len(list((tmp_path / "cache" / "objects").iterdir())) == 1


@pytest.mark.slow
def test_resume_on_another_machine(
    store: Store, yolo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped after its first epoch is resumed with another, empty cache, and ends bit-identical."""
    train(yolo_folder, tmp_path / "whole", **{"train.epochs": 2})

    class StoppedError(Exception):
        """Simulates the loss of a machine."""

    def stop(self: run_upload.RunUpload) -> None:
        send(self)
        if len(list(self.path.glob("log.jsonl"))) and (self.path / "last").exists() and stopping:
            raise StoppedError

    send, stopping = run_upload.RunUpload.send, []
    monkeypatch.setattr(run_upload.RunUpload, "send", stop)
    original = boxwright.engine.train.evaluate_epoch

    def evaluated(job: object, epoch: int, *others: object) -> None:
        original(job, epoch, *others)
        stopping.append(epoch)

    monkeypatch.setattr(boxwright.engine.train, "evaluate_epoch", evaluated)
    with pytest.raises(StoppedError):
        train(yolo_folder, "s3://bucket/run", **{"train.epochs": 2, "train.save_every": 1})
    monkeypatch.undo()
    store_environment(store, monkeypatch, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds a run already"):
        train(yolo_folder, "s3://bucket/run", **{"train.epochs": 2})
    boxwright.train(
        RECIPE, yolo_folder, "s3://bucket/run", resume=True,
        overrides=SMALL | {"data.workers": 0, "train.epochs": 2, "train.save_every": 1},
    )  # fmt: skip
    for name in ("last",):
        assert_equal(
            weights_of(store, "bucket/run", tmp_path, name), load_file(tmp_path / "whole" / name / "model.safetensors")
        )


def store_environment(store: Store, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Another machine: an empty cache, and the same variables."""
    for name, value in (("AWS_ACCESS_KEY_ID", "TESTKEY"), ("AWS_SECRET_ACCESS_KEY", "x"),
                        ("AWS_ENDPOINT_URL", store.url), (VARIABLE, str(place))):  # fmt: skip
        monkeypatch.setenv(name, value)
    folders.forget()
    assert cache.size_limit()
