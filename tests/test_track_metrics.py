"""HOTA, CLEAR and Identity against TrackEval (`track_eval_numbers.py` wrote its numbers), and by hand."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

import track_sequences
from boxwright.cli import main
from boxwright.errors import InputError
from boxwright.evaluation.tracks import evaluate_tracks
from boxwright.metrics import tracks as metrics
from boxwright.metrics.tracks import TrackMetrics, score
from boxwright.tracking import mot

pytest.importorskip("scipy", reason="needs the extra video")

NUMBERS = json.loads((Path(__file__).parent / "oracles" / "tracks" / "numbers.json").read_text())
SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "video"
LOCA = "LocA"  # 0 in TrackEval's sum over sequences where nothing matches at a threshold, 1 in a single one


def scored(tmp_path: Path, truth: Sequence[track_sequences.Row], found: Sequence[track_sequences.Row]) -> TrackMetrics:
    files = [track_sequences.write_rows(tmp_path / name, rows) for name, rows in (("t.txt", truth), ("f.txt", found))]
    return score(*map(mot.read, files))


@pytest.mark.slow
def test_random_sequences_match_track_eval(tmp_path: Path) -> None:
    """50 random ones, with distractors and boxes that do not count."""
    names = [name for name in NUMBERS if name.startswith("made_")]
    assert len(names) == 50
    for name in names:
        found = scored(tmp_path, *track_sequences.made(int(name.removeprefix("made_")))).summary
        expected = NUMBERS[name]
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs the sample clips beside the checkout")
def test_sample_clips_and_combined_metrics_match_track_eval(tmp_path: Path) -> None:
    total = sum(
        (scored(tmp_path, *track_sequences.made(seed)) for seed in range(50)),
        start=TrackMetrics(),
    )
    for seed, name in enumerate(("birds", "birds_far", "drones")):
        truth = track_sequences.read_rows(SAMPLES / name / "gt" / "gt.txt")
        found = scored(tmp_path, truth, list(track_sequences.noisy(truth, seed)))
        assert {key: found.summary[key] for key in NUMBERS[name]} == pytest.approx(NUMBERS[name], abs=1e-6), name
        total += found
    expected = {key: value for key, value in NUMBERS["all"].items() if key != LOCA}
    assert {key: total.summary[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def rows(*boxes: tuple[int, int, float]) -> list[track_sequences.Row]:
    """Boxes of 10 x 10 px from (frame, id, left)."""
    return [(frame, track, left, 0.0, 10.0, 10.0, 1.0, 1) for frame, track, left in boxes]


def test_metrics_of_one_object_by_hand(tmp_path: Path) -> None:
    """One object in four frames: found, found at IoU 0.6, not found, found with another id; one false box.

    A shift of 2.5 px of 10 leaves 7.5 of 12.5, an IoU of 0.6. At thresholds up to 0.6 (12 of 19) three boxes match, two
    with id 1 and one with id 2; beyond, one of each. Unmatched boxes of id 2: one, 100 px away.
    """
    truth = rows((1, 7, 0), (2, 7, 0), (3, 7, 0), (4, 7, 0))
    found = scored(tmp_path, truth, rows((1, 1, 0), (2, 1, 2.5), (3, 2, 100), (4, 2, 0)))
    assert found.summary["MOTA"] == pytest.approx((3 - 1 - 1) / 4)  # a switch, and a false positive
    assert found.summary["MOTP"] == pytest.approx((1 + 0.6 + 1) / 3)
    assert (found.switches, found.fragments, found.fn, found.fp) == (1, 1, 1, 1)  # found again after the gap in frame 3
    assert found.idf1 == pytest.approx(2 * 2 / (4 + 4))  # id 1 for the object: two boxes
    low = math.sqrt(3 / 5 * (2 * 2 / 4 + 1 / 5) / 3)  # id 1: 2 of 4 + 2 - 2 boxes; id 2: 1 of 4 + 2 - 1
    high = math.sqrt(2 / 6 * (1 / 5 + 1 / 5) / 2)
    assert found.hota == pytest.approx((12 * low + 7 * high) / 19)


def test_match_is_kept_while_boxes_overlap(tmp_path: Path) -> None:
    """In the second frame another box is nearer, but id 1 keeps the object: no switch (CLEAR, step 1)."""
    found = scored(tmp_path, rows((1, 7, 0), (2, 7, 0)), rows((1, 1, 0), (2, 1, 2.5), (2, 2, 0)))
    assert (found.switches, found.tp, found.fp) == (0, 2, 1)
    assert found.motp == pytest.approx((1 + 0.6) / 2)


def test_no_tracks_and_no_ground_truth(tmp_path: Path) -> None:
    one = rows((1, 1, 0))
    assert scored(tmp_path, one, []).summary["MOTA"] == 0
    assert scored(tmp_path, [], one).fp == 1
    assert scored(tmp_path, [], []).hota == 0
    with pytest.raises(InputError, match=r"f\.txt: found no object that counts"):
        evaluate_tracks(tmp_path / "f.txt", tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,0,0,5,5\n1,2,0,0,5\n", "line 2: found 5 columns, needed 6 to 10"),
        ("1,1,0,0,5,5,1,1,1,1,1\n", "line 1: found 11 columns"),
        ("\n0,1,0,0,5,5\n", "line 2: found frame 0, needed a whole number from 1"),
        ("1.5,1,0,0,5,5\n", "line 1: found frame 1.5"),
        ("1,-1,0,0,5,5\n", "line 1: found id -1, needed a whole number from 0"),
        ("1,1,0,zero,5,5\n", "line 1: found 'zero', needed a number"),
        ("1,1,0,nan,5,5\n", "line 1: found 'nan'"),
        ("1,1,0,1_0,5,5\n", "line 1: found '1_0'"),
        ("1,1,0,0,-5,5\n", "line 1: found a box 0,0,-5,5, needed left,top,width,height"),
        ("1,1,0,0,1e300,5\n", "line 1: found a box"),
        ("1,1,0,0,5,5\n2,1,0,0,5,5\n1,1,9,9,5,5\n", "line 3: found id 1 a second time in frame 1"),
        ("1 1 0 0 5 5\n", "line 1: found 1 columns"),
        ("1,1,0,0,5,\x1b[31m\n", "line 1: found '\\x1b[31m'"),
    ],
)
def test_invalid_row_is_a_one_line_error_with_its_line_number(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tracks.txt"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        mot.read(file)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file} line ")


def test_rows_in_any_order_with_6_to_10_columns(tmp_path: Path) -> None:
    file = tmp_path / "tracks.txt"
    file.write_text("2,5,1,2,3,4\n1,9,0,0,5,5,0.5\n1,3,0,0,1,1,0,7,0.3\n3,3,0,0,1,1,1,-1,-1,-1\r\n")
    read = mot.read(file)
    assert read.frames.tolist() == [1, 1, 2, 3]
    assert read.ids.tolist() == [3, 9, 5, 3]
    assert read.scores.tolist() == [0, 0.5, 1, 1]
    assert read.classes.tolist() == [7, -1, -1, -1]
    assert read.boxes[2].tolist() == [1, 2, 4, 6]


def test_huge_frame_numbers_and_ids(tmp_path: Path) -> None:
    far = [(10**15, 10**15, 0.0, 0.0, 10.0, 10.0, 1.0, 1)]
    assert scored(tmp_path, far, far).hota == 1


def test_too_many_boxes_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_BOXES", 2)
    many = rows((1, 1, 0), (1, 2, 20), (1, 3, 40))
    with pytest.raises(InputError, match="needed at most 10,000 and 2; split the sequence"):
        scored(tmp_path, many, rows((1, 1, 0)))
    monkeypatch.setattr(mot, "MAX_ROWS", 2)
    with pytest.raises(InputError, match="more than 2 rows"):
        mot.read(track_sequences.write_rows(tmp_path / "many.txt", many))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate-tracks", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_evaluate_tracks_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders of the MOT challenge against a folder of files."""
    for seed in (1, 2):
        truth, found = track_sequences.made(seed)
        track_sequences.write_rows(tmp_path / "truth" / f"made_{seed}" / "gt" / "gt.txt", truth)
        track_sequences.write_rows(tmp_path / "found" / f"made_{seed}.txt", found)
    assert run(tmp_path / "truth", tmp_path / "found", "--out", tmp_path / "metrics.json") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["sequence", "made_1", "made_2", "all"]
    assert printed[1].split()[1] == f"{NUMBERS['made_1']['HOTA']:.3f}"
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["sequences"]["made_2"]["MOTA"] == pytest.approx(NUMBERS["made_2"]["MOTA"], abs=1e-6)
    assert 0 < written["summary"]["IDF1"] < 1
    file = tmp_path / "found" / "made_1.txt"
    assert run(tmp_path / "truth" / "made_1", file, "--out", file) == 2
    assert "made_1.txt: exists and is not an earlier comparison of tracks" in capsys.readouterr().err
    (tmp_path / "found" / "made_2.txt").unlink()
    (tmp_path / "found" / "other.txt").write_text("")
    assert run(tmp_path / "truth", tmp_path / "found") == 2
    assert "found no tracks of made_2 (1 of 2 sequences are missing), needed made_2.txt" in capsys.readouterr().err
    assert run(tmp_path / "truth" / "made_1", tmp_path / "found" / "made_1.txt") == 0  # one sequence, other name
    assert run(tmp_path / "nothing", tmp_path / "found") == 2
    assert "nothing: no such file or folder; needed a .txt file" in capsys.readouterr().err
