import os
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright.locks import lock


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
class TestFileOpenedTwice:
    """As by two processes: `flock` keeps apart what was opened apart, also in one process."""

    def test_lock_is_exclusive(self, tmp_path: Path) -> None:
        with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
            assert lock(first) is True
            assert lock(second) is False
            first.close()
            assert lock(second) is True

    def test_shared_locks_exclude_an_exclusive_lock(self, tmp_path: Path) -> None:
        with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
            assert lock(first, shared=True) is True
            assert lock(second, shared=True) is True
            assert lock(second) is False

    @pytest.mark.parametrize(("inherited", "held"), [(True, True), (False, False)])
    def test_forked_process_holds_inherited_locks_only(self, tmp_path: Path, inherited: bool, held: bool) -> None:
        """When the process that locked a file closes it, its child, which has it open, still holds a `flock`."""
        script = (
            "import os, sys\n"
            "from boxwright.locks import lock\n"
            "file, inherited = open(sys.argv[1], 'w'), sys.argv[2] == 'True'\n"
            "assert lock(file, inherited=inherited)\n"
            "wait, end = os.pipe()\n"
            "if os.fork() == 0:\n"
            "    os.close(end)\n"
            "    os.read(wait, 1)\n"
            "    os._exit(0)\n"
            "file.close()\n"
            "other = open(sys.argv[1], 'w')\n"
            "found = os.fork()\n"
            "if found == 0:\n"
            "    os._exit(lock(other, inherited=inherited) is False)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(found, 0)[1]))\n"
        )
        done = subprocess.run([sys.executable, "-c", script, tmp_path / "a", str(inherited)], check=False)
        assert done.returncode == held
