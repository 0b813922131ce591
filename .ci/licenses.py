"""List the licences of all that an installed boxwright needs, of its core and of its extras, and check them.

    python .ci/licenses.py FILE EXTRA...

FILE gets a table in Markdown. Exit status 1 if a licence is of the GPL or AGPL or is unknown, if a wheel contains a
library of `STRONG_LIBRARY`, or if a package is missing. A licence is what the metadata of a package says:
License-Expression, else its classifiers, else its field License. What wheels contain beside their own code is not in
there; `BUNDLED` says what is known of it.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LESSER = re.compile(r"LGPL|(?:lesser|library) general public licen[cs]e", re.I)
STRONG = re.compile(r"GPL|general public licen[cs]e|affero", re.I)
WITH_EXCEPTION = re.compile(r"\S+ WITH \S+")  # such as GPL-3.0-or-later WITH GCC-exception-3.1, of runtime libraries
# Read in the files of the package, whose metadata has none: name -> licence.
READ = {"huey": "MIT", "skops": "MIT", "cuda-toolkit": "no files of its own; requires NVIDIA's packages"}
# Libraries under the GPL that wheels are known to contain, by the names of their files.
STRONG_LIBRARY = re.compile(r"^(?:lib)?(?:x264|x265|xvidcore|postproc|readline|gsl|fftw3f?)\b")
BUNDLED = {
    "av": "its wheel contains FFmpeg (LGPL) with the encoders x264 and x265, which are under the GPL: an extra of its "
    "own for this reason (docs/video.md)",
    "numpy": "its wheel contains GCC's runtime libraries, GPL with an exception for them, and LGPL; so does SciPy's",
    "opencv-python-headless": "its wheel contains FFmpeg under the LGPL, as libraries that can be exchanged",
    "rasterio": "its wheel contains GDAL (MIT) with GEOS under the LGPL, as a library that can be exchanged",
    "torch": "wheels for CUDA need NVIDIA's libraries, which are under NVIDIA's own licences and not free software",
}


def licence(package: metadata.Distribution) -> str:
    """What the metadata says, in one line; "" if it says nothing."""
    fields = package.metadata
    if expression := fields.get("License-Expression"):
        return str(expression)
    classifiers = [line.split(" :: ")[-1] for line in fields.get_all("Classifier", []) if line.startswith("License ::")]
    if named := [line for line in classifiers if line != "OSI Approved"]:
        return " AND ".join(named)
    lines = [line.strip() for line in str(fields.get("License") or "").splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return READ.get(canonicalize_name(package.name), "") if text.upper() in {"", "UNKNOWN"} else text[:80]


def is_strong(text: str) -> bool:
    """Whether no alternative is free of the GPL and AGPL. The LGPL and exceptions for runtime libraries are neither."""
    alternatives = re.split(r"\s+OR\s+", text.strip("()"))
    return all(STRONG.search(LESSER.sub("", WITH_EXCEPTION.sub("", each))) for each in alternatives)


def strong_libraries(package: metadata.Distribution) -> list[str]:
    """Names of libraries under the GPL among the files of a package, other than PyAV, of which BUNDLED says it."""
    names = [] if package.name == "av" else [file.name for file in package.files or ()]
    return [name for name in names if STRONG_LIBRARY.match(name) and re.search(r"\.(so|dylib|dll)\b", name)]


def needs(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a distribution needs here with these extras. Raises PackageNotFoundError."""
    for need in map(Requirement, metadata.requires(name) or []):
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            yield need


def closure(extras: frozenset[str]) -> dict[str, metadata.Distribution | None]:
    """All that boxwright with these extras needs, by name; None for what is not installed."""
    found: dict[str, metadata.Distribution | None] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [("boxwright", extras)]
    while pending:
        name, chosen = pending.pop()
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        try:
            found[name] = metadata.distribution(name)
            pending += [(canonicalize_name(need.name), frozenset(need.extras)) for need in needs(name, chosen)]
        except metadata.PackageNotFoundError:
            found[name] = None
    found.pop("boxwright")
    return found


def report(extras: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines of the file, and what is wrong."""
    needed_by: dict[str, list[str]] = {}
    packages: dict[str, metadata.Distribution | None] = {}
    core = closure(frozenset())
    for title, found in [("core", core), *((extra, closure(frozenset([extra]))) for extra in extras)]:
        packages |= found
        for name in found:
            if title == "core" or name not in core:
                needed_by.setdefault(name, []).append(title)
    rows, faults = [], []
    for name in sorted(packages):
        package = packages[name]
        text = "" if package is None else licence(package)
        version = "" if package is None else package.version
        if package is None:
            faults.append(f"{name}: not installed")
        elif not text:
            faults.append(f"{name} {version}: its metadata has no licence; read its files and add it to READ")
        elif is_strong(text):
            faults.append(f"{name} {version}: {text}")
        if package is not None and (libraries := strong_libraries(package)):
            faults.append(f"{name} {version}: contains {', '.join(libraries)}")
        rows.append(f"| {name} | {version} | {text.replace('|', '/')} | {', '.join(needed_by[name])} |")
    own = metadata.version("boxwright")
    lines = [f"# Licences of what boxwright {own} needs", "", "| package | version | licence | needed by |"]
    lines += ["| --- | --- | --- | --- |", *rows, ""]
    lines += [f"- {name}: {text}" for name, text in BUNDLED.items() if name in packages]
    return lines, faults


def main(file: str, extras: Sequence[str]) -> int:
    lines, faults = report(extras)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{file}: {len(lines)} lines, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
