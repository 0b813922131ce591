"""Share of planted label errors in rendered scenes among the first findings of `data audit`.

    python benchmarks/audit.py --out DIR [--scenes 240] [--share 0.05] [--epochs 40]

Renders scenes with exact labels, drops, shifts by half a side or relabels a share of the boxes, a third each, runs the
audit, and counts: of the first N findings, N the number of errors put in, how many are such errors. `--kinds` chooses
others, `added` among them: a box where nothing is. Without `--recipe`, networks are those of the audit from random
weights. They are trained for so many epochs, so other work on the machine changes the time and not the result.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from boxwright.arrays import Array
from boxwright.audit.folds import Training
from boxwright.audit.run import audit
from boxwright.datatools import scenes
from boxwright.json_text import JsonObject
from boxwright.metrics.matching import pairwise_iou
from boxwright.version import versions

KINDS = {"dropped": "missing", "shifted": "location", "relabelled": "class", "added": "spurious"}
MIN_IOU = 0.5  # of a suggested box with the true one


def corrupt(file: Path, share: float, kinds: list[str], seed: int) -> list[JsonObject]:
    """Plant errors in a COCO file; return a row for each: kind, image, annotation id, true box and class."""
    rng = np.random.default_rng(seed)
    tree = json.loads(file.read_text())
    images = {image["id"]: image for image in tree["images"]}
    rows = tree["annotations"]
    chosen = rng.permutation(len(rows))[: round(share * len(rows))]
    errors, added = [], []
    for number, index in enumerate(chosen.tolist()):
        row, kind = rows[index], kinds[number % len(kinds)]
        x, y, w, h = row["bbox"]
        image = images[row["image_id"]]
        errors.append(
            {
                "kind": kind,
                "image": image["file_name"],
                "id": row["id"],
                "box": [x, y, x + w, y + h],
                "class": row["category_id"],
            }
        )
        if kind == "dropped":
            row["dropped"] = True
        elif kind == "relabelled":
            row["category_id"] = int(rng.choice([c["id"] for c in tree["categories"] if c["id"] != row["category_id"]]))
        elif kind == "shifted":
            row["bbox"] = shifted(row["bbox"], image, rng)
        else:
            box = empty_place([r["bbox"] for r in rows if r["image_id"] == row["image_id"]], (w, h), image, rng)
            errors[-1] |= {"id": len(rows) + len(added) + 1, "box": [box[0], box[1], box[0] + w, box[1] + h]}
            added.append(row | {"id": errors[-1]["id"], "bbox": box})
    tree["annotations"] = [row for row in rows if not row.get("dropped")] + added
    file.write_text(json.dumps(tree))
    return errors


def shifted(box: list[float], image: JsonObject, rng: np.random.Generator) -> list[float]:
    """The box moved by half of its width or height, to where it stays in the image; IoU with the true one is 1/3."""
    x, y, w, h = box
    moves = np.array([(w / 2, 0), (-w / 2, 0), (0, h / 2), (0, -h / 2)]) + np.array([x, y])
    inside = ((moves >= 0) & (moves <= [image["width"] - w, image["height"] - h])).all(axis=1)
    return [*rng.choice(moves[inside]).round(2).tolist(), w, h]


def empty_place(
    boxes: list[list[float]], size: tuple[float, float], image: JsonObject, rng: np.random.Generator
) -> list[float]:
    """A box of this size that no other box touches."""
    corners = np.array(boxes).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    while True:
        place = rng.uniform(0, np.array([image["width"], image["height"]]) - size).round(2)
        if not pairwise_iou(np.append(place, place + size)[None], corners).any():
            return [*place.tolist(), *size]


def is_found(finding: JsonObject, error: JsonObject) -> bool:
    """Whether a finding points at an error: its label, or the box that is missing."""
    if finding["image"].rsplit("/", 1)[-1] != error["image"]:
        return False
    if error["kind"] != "dropped" and finding["object"] == error["id"]:
        return True
    boxes: list[Array] = [np.array([box]) for box in (finding["suggested_box"] or [0] * 4, error["box"])]
    right = finding["kind"] == "missing" and error["kind"] in ("dropped", "shifted")
    return right and bool(pairwise_iou(*boxes)[0, 0] >= MIN_IOU)


def count(findings: list[JsonObject], errors: list[JsonObject]) -> JsonObject:
    """Of the first N findings, those that point at an error that none before them points at."""
    left = list(errors)
    hits, kinds, wrong = Counter[str](), Counter[str](), Counter[str]()
    for finding in findings[: len(errors)]:
        error = next((error for error in left if is_found(finding, error)), None)
        if error is None:
            wrong[finding["kind"]] += 1
            continue
        left.remove(error)
        hits[error["kind"]] += 1
        kinds[error["kind"]] += finding["kind"] == KINDS[error["kind"]]
    return {
        "errors": len(errors),
        "found": sum(hits.values()),
        "share": sum(hits.values()) / max(1, len(errors)),
        "of kind": {kind: f"{hits[kind]} of {total}" for kind, total in Counter(e["kind"] for e in errors).items()},
        "as that kind": dict(kinds),
        "wrong": dict(wrong),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--recipe")
    parser.add_argument("--start", help="weights")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the recipe")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and the errors")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["dropped", "shifted", "relabelled"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = args.out / "data"
    if not data.exists():
        scenes.write_dataset(data, args.scenes, 1, seed=args.seed)
        (data / "annotations" / "val.json").unlink()
        errors = corrupt(data / "annotations" / "train.json", args.share, args.kinds, args.seed)
        (args.out / "errors.json").write_text(json.dumps(errors))
    start = time.perf_counter()
    changes = ["data.workers=0", f"train.epochs={args.epochs}", *args.set]
    training = Training(folds=args.folds, minutes=0, recipe=args.recipe, start=args.start, overrides=changes)
    found = audit(data, args.out / "audit", training=training)
    findings = json.loads((args.out / "audit" / "audit.json").read_text())["findings"]
    minutes = (time.perf_counter() - start) / 60
    print(found)
    print(
        {"minutes": round(minutes, 1)}
        | versions("torch")
        | count(findings, json.loads((args.out / "errors.json").read_text()))
    )


if __name__ == "__main__":
    main()
