"""File names that are not UTF-8, too long, or contain control characters: each affects at most its own image."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from boxwright import json_text, progress
from boxwright.cli.output import echo
from boxwright.data.findings import Finding
from boxwright.datatools.convert import convert
from boxwright.errors import InputError
from boxwright.formats import open_boxes as open_dataset
from boxwright.predict.output import predict_to_folder
from boxwright.predict.scene_output import predict_scenes_to_folder
from boxwright.predict.tiled import Tiling
from stand_in import rectangles_predictor, scene

LATIN = os.fsdecode(b"caf\xe9.png")  # as an old archive may have it
FORGED = "x\x1b[31mred\x1b]0;title\x07\nboxwright: forged line\u202e.png"
RED = scene(64, 64, [(10, 10, 40, 40)], [0])


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", RED[:, :, ::-1])
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="needs file names in UTF-8")
@pytest.mark.parametrize("tile", [None, 64])
def test_file_name_that_is_not_utf8_is_processed(tile: int | None, tmp_path: Path) -> None:
    for name in ("a.png", LATIN, "é.png"):
        write(tmp_path / "in" / name)
    run = predict_to_folder if tile is None else lambda *words: predict_scenes_to_folder(*words, Tiling(64))
    done = run(rectangles_predictor(), [tmp_path / "in"], tmp_path / "out")
    assert done.failed == {}
    content = (tmp_path / "out" / "detections.json").read_bytes().decode("utf-8")
    assert "é.png" in content
    rows = json.loads(content)["images"]
    assert {Path(row["file"]).name for row in rows} == {"a.png", LATIN, "é.png"}
    assert all((tmp_path / "out" / row["drawn"]).is_file() and len(row["detections"]) == 1 for row in rows)
    assert json_text.read(tmp_path / "out" / "detections.json")["images"] == rows


def test_names_round_trip_through_json() -> None:
    assert json_text.dumps({"name": "é\U0001f600"}) == '{"name": "é\U0001f600"}'
    for name in (LATIN, "\ud800", "\\udce9"):  # the last is what it says
        assert json.loads(json_text.dumps([name]).encode("utf-8")) == [name]


C_LOCALE = """
import sys
from boxwright.cli.output import echo
from boxwright import cli
from boxwright.predict.output import predict_to_folder
from stand_in import rectangles_predictor
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
cli._set_up_process()
done = predict_to_folder(rectangles_predictor(), sys.argv[1:2], sys.argv[2])
assert not done.failed
echo("\\n".join([*done.lines(), *sorted(sys.argv), "\\u00e9"]))
"""


@pytest.mark.slow
def test_non_ascii_names_in_the_c_locale(tmp_path: Path) -> None:
    write(tmp_path / "é" / "naïve.png")
    command = [sys.executable, "-X", "utf8=0", "-c", C_LOCALE, str(tmp_path / "é"), str(tmp_path / "öut")]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=os.environ | locale, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\xe9" in done.stdout
    rows = json.loads((tmp_path / "öut" / "detections.json").read_bytes())["images"]
    assert [os.fsencode(row["file"]) for row in rows] == [os.fsencode(tmp_path / "é" / "naïve.png")]


def test_file_names_of_maximum_length(tmp_path: Path) -> None:
    """Of two of 255 bytes the second cannot be drawn beside the first; it is reported, its detections are written."""
    longest = "n" * 251 + ".png"
    for place in ("a/" + longest, "b/" + longest, "c/short.png"):
        write(tmp_path / "in" / place)
    done = predict_to_folder(rectangles_predictor(), [tmp_path / "in"], tmp_path / "out")
    assert list(done.failed) == [str(tmp_path / "in" / "b" / longest)]
    assert "File name too long" in done.failed[str(tmp_path / "in" / "b" / longest)]
    rows = json.loads((tmp_path / "out" / "detections.json").read_bytes())["images"]
    assert [(row["drawn"], len(row["detections"])) for row in rows] == [(longest, 1), (None, 1), ("short.png", 1)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {longest, "short.png", "detections.json"}


def test_control_characters_are_escaped_in_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "a.png")
    (tmp_path / "in" / FORGED).write_text("no image")
    done = predict_to_folder(rectangles_predictor(), [tmp_path / "in"], tmp_path / "out")
    lines = [
        *replace(done, counts={FORGED: 1}).lines(),
        str(Finding("missing_image", "train", "a.json", "is not there", FORGED, 1)),
    ]
    assert all(line.isprintable() for line in lines)
    assert sum("forged line" in line for line in lines) == 3
    echo(f"one\n{LATIN}\x1b[2J")
    assert capsys.readouterr().out == "one\ncaf\\xe9.png\\x1b[2J\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_titles_are_escaped_and_not_parsed_as_markup(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", kind())
    assert list(progress.track([1, 2], 2, f"[/bold]{FORGED}")) == [1, 2]
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "[/bold]x\\x1b[31mred\\x1b]0;title\\x07\\nboxwright: forged" in shown
    assert "\x1b[31m" not in shown


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="needs file names in UTF-8")
def test_labels_with_non_utf8_names_are_converted_or_rejected(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train" / LATIN)
    (tmp_path / "set" / "annotations").mkdir()
    labels = {
        "images": [{"id": 1, "file_name": LATIN, "height": 64, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "é"}],
    }
    (tmp_path / "set" / "annotations" / "train.json").write_text(json.dumps(labels))
    convert(tmp_path / "set", "coco", tmp_path / "coco")
    (tmp_path / "coco" / "annotations" / "train.json").read_bytes().decode("utf-8")
    assert Path(open_dataset(tmp_path / "coco", "train").path(0)).name == LATIN
    with pytest.raises(InputError, match=r"^train\.txt: cannot hold 'images/train/caf\\xe9\.png .* rename"):
        convert(tmp_path / "set", "line_txt", tmp_path / "line")
    assert not (tmp_path / "line").exists()


@pytest.mark.slow
def test_closed_stderr_is_ignored(tiny_coco: Path, tmp_path: Path) -> None:
    command = f"exec '{sys.executable}' -m boxwright data check '{tiny_coco}' --report '{tmp_path / 'r.json'}' 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout.endswith(b"0 errors, 0 notes\n")


def test_unencodable_characters_are_escaped_in_output() -> None:
    code = "from boxwright import cli\ncli._set_up_process()\nprint('\\u00e9')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    assert done.stdout == b"\\xe9\n"
