"""The command line: fast start, one-line errors for invalid input, exit status."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boxwright import cli, recipe
from boxwright.errors import InputError


def status_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(list(arguments))
    return leaving.value.code


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"], []])
def test_help_and_list_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom boxwright import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        "print('heavy:', sorted({'torch', 'numpy', 'cv2', 'accelerate'} & set(sys.modules)), file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(f"boxwright {' '.join(arguments)}: {time.perf_counter() - start:.2f} s")  # 0.2 s on an idle machine
    assert done.stderr.strip() == "heavy: []"
    assert "yolov3_coco_416_darknet" in done.stdout if arguments == ["list"] else "Usage" in done.stdout


def test_list_names_every_recipe_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe.names()
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_show_prints_a_recipe_that_can_be_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("show", "demo", "--set", "train.epochs=3", "--set", "train.schedule.lr=0.5") == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert recipe.load(file) == recipe.load("demo", {"train.epochs": 3, "train.schedule.lr": 0.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Missing argument 'RECIPE'."),
        (["train", "demo"], "Missing option '--data'."),
        (["trian"], "Did you mean 'train'?"),
        (["train", "demo", "--data", "x", "--epoch", "3"], "No such option: --epoch"),
        (["predict", "w.safetensors", "x.jpg", "--threshold", "2"], "'--threshold'"),
        (["predict", "w.safetensors", "x.jpg", "--nms", "half"], "'--nms'"),
        (["data"], "Missing command."),
        (["show", "demmo"], "did you mean 'demo'?"),
        (["show", "demo", "--set", "train.epohcs=3"], "did you mean 'epochs'?"),
        (["show", "demo", "--set", "train.epochs"], "needed key=value"),
        (["show", "nothing/here.yaml"], "cannot be read"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(*arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("boxwright: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (InputError("a.json: two\n lines"), 2, "boxwright: a.json: two\\n lines\n"),
        (OSError(28, "No space left on device", "/d/x.json"), 2, "boxwright: /d/x.json: No space left on device\n"),
        (PermissionError(13, "Permission denied"), 2, "boxwright: Permission denied\n"),
        (KeyboardInterrupt(), 130, "boxwright: interrupted\n"),
    ],
)
def test_exceptions_become_exit_status_and_one_line(
    raised: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> dict[str, str]:
        raise raised

    monkeypatch.setattr(recipe, "summaries", fails)
    assert status_of("list") == status
    assert capsys.readouterr().err == line


def test_unexpected_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> dict[str, str]:
        raise ZeroDivisionError

    monkeypatch.setattr(recipe, "summaries", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


@pytest.mark.slow
def test_closed_pipe_gives_no_traceback() -> None:
    """`boxwright list | head -0`: the pipe is closed before anything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; sys.argv[1:] = ['list']\nfrom boxwright.cli import main; main()"
    done = subprocess.run([sys.executable, "-u", "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def test_python_m_runs_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "boxwright", "show", "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("boxwright: there is no recipe 'x'")


def test_evaluate_top_k_without_no_truth_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["evaluate", "w.safetensors", "--data", "data", "--top-k", "3"])
    assert leaving.value.code == 2
    assert "--top-k: found without --no-truth" in capsys.readouterr().err
