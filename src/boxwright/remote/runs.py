"""Run folders in an object store.

Plain files have the same names as in a local run folder. A checkpoint consists of several objects, which cannot be
replaced atomically. So each is written to a new folder, `last-0123456789abcdef/`, and then `run.json`, which names the
current folder of each checkpoint, is replaced. Readers of `run.json` therefore only find complete checkpoints.
"""

import json
import re
from dataclasses import dataclass

from boxwright import json_text
from boxwright.errors import InputError
from boxwright.remote.address import WEB, Address
from boxwright.remote.objects import RemoteObject, listing, read_bytes

POINTER = "run.json"
CHECKPOINT = r"(?:last|best|epoch-\d{4,})"
STORED = re.compile(rf"(?P<name>{CHECKPOINT})-[0-9a-f]{{16}}")  # the folder of a checkpoint
ATTEMPTS = 3  # to list a run that is being updated


@dataclass(frozen=True)
class RemoteRun:
    """A run folder.

    Attributes:
        address: Address of the folder.
        content: Content of `run.json`.
        checkpoints: Name, such as `last` -> name of its folder.
    """

    address: Address
    content: bytes
    checkpoints: dict[str, str]

    def members(self) -> dict[str, RemoteObject]:
        """Its files by their names in a local run folder. Raises InputError if they cannot be listed."""
        run = self
        for _ in range(ATTEMPTS):
            names = {folder: name for name, folder in run.checkpoints.items()}
            files, seen = {}, set()
            for each in listing(run.address):
                first, _, rest = each.uri[len(run.address.uri) + 1 :].partition("/")
                seen.add(first)
                if first in names:
                    files[f"{names[first]}/{rest}"] = each
                elif not STORED.fullmatch(first) and first != POINTER:
                    files[f"{first}/{rest}".rstrip("/")] = each
            if names.keys() <= seen:
                return files
            run = read_run(run.address) or run  # it may have been replaced since it was read
        raise InputError(f"{self.address}: a checkpoint that {POINTER} names is missing; copy the run again")


def find_run(address: Address) -> RemoteRun | None:
    """The run folder at an address, or that contains the checkpoint at an address; None if there is none."""
    if address.scheme in WEB:
        return None
    if (run := read_run(address)) is None and re.fullmatch(CHECKPOINT, address.name):
        run = read_run(address.parent)
    return run


def read_run(address: Address) -> RemoteRun | None:
    """The run folder at an address; None if there is none. Raises InputError if its `run.json` is invalid."""
    content = read_bytes(address / POINTER)
    return None if content is None else RemoteRun(address, content, _parsed(content, str(address / POINTER)))


def written(checkpoints: dict[str, str]) -> bytes:
    """Content of `run.json` for checkpoints."""
    return json.dumps({"checkpoints": checkpoints}, indent=1, sort_keys=True).encode()


def _parsed(content: bytes, title: str) -> dict[str, str]:
    tree = json_text.parse(content, title)
    checkpoints = tree.get("checkpoints") if isinstance(tree, dict) else None
    if not isinstance(checkpoints, dict):
        raise InputError(f"{title}: not that of a run folder, needed the key 'checkpoints'; remove it")
    for name, folder in checkpoints.items():
        match = STORED.fullmatch(folder) if isinstance(folder, str) else None
        if match is None or match["name"] != name:
            raise InputError(f"{title}: checkpoints: found '{str(folder)[:40]}' for '{name[:20]}'; copy the run again")
    return checkpoints
