"""Content of the page: the set, lists of images, and single images with objects, detections and findings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import Boxes
from boxwright.data.sets import shown
from boxwright.errors import InputError, one_line
from boxwright.images.header import read_header
from boxwright.images.windows import scene_fault
from boxwright.json_text import JsonObject
from boxwright.look.audit import Audit, ObjectIndex
from boxwright.look.catalog import Catalog, Filters
from boxwright.look.predictions import COUNTED, STATUSES, Predictions
from boxwright.look.repair import Repair
from boxwright.look.runs import Runs
from boxwright.version import __version__

MAX_RUNS = 4  # per request


class View:
    """Responses for the page.

    Args:
        catalog: The set.
        runs: The runs.
        audit: The findings; None without an audit.
        repair: Reads and writes the labels.
    """

    def __init__(self, catalog: Catalog, runs: Runs, audit: Audit | None, repair: Repair) -> None:
        self.catalog, self.runs, self.audit, self.repair = catalog, runs, audit, repair

    def describe(self) -> JsonObject:
        """The set, its runs and its audit."""
        catalog, audit, reason = self.catalog, self.audit, self.repair.reason()
        return {
            "data": shown(catalog.data),
            "layout": catalog.layout,
            "splits": [
                {"name": split.name, "images": len(split), "message": one_line(split.message)}
                for split in catalog.splits
            ],
            "classes": list(catalog.classes),
            "editable": not reason,
            "reason": reason,
            "runs": [run.describe(catalog) for run in self.runs.runs],
            "audit": None if audit is None else audit.describe(),
            "statuses": list(COUNTED),
            "message": "\n".join(
                map(one_line, [*self._unopened(), *([audit.message] if audit and audit.message else [])])
            ),
            "version": __version__,
        }

    def path(self, image: int) -> str:
        """The file of an image."""
        _, dataset, index = self.catalog.place(image)
        return dataset.path(index)

    def images(
        self, filters: Filters, status: str, run: str, min_score: float, finding: str, offset: int, limit: int
    ) -> JsonObject:
        """Images that match all filters, `limit` of them from `offset` on.

        With a run, class and size refer to its detections and the objects that they were compared with.
        """
        catalog = self.catalog
        predictions = self.runs.by_name(run).predictions(catalog) if run else None
        if status and predictions is None:
            raise InputError("status: needs a run; choose one")
        if predictions is not None and (status or filters.name or filters.size):
            mask = catalog.select(Filters(filters.split))
            mask &= predictions.select(filters, status, min_score, catalog)
        else:
            mask = catalog.select(filters)
        if finding:
            if self.audit is None:
                raise InputError("finding: needs an audit; start with --audit audit.json")
            order = self.audit.order(finding)
            chosen = order[mask[order]]
        else:
            chosen = np.flatnonzero(mask)
        ids = chosen[offset : offset + limit].tolist()
        counts = [0] * len(ids) if predictions is None else predictions.counts(ids, min_score)
        rows = zip(ids, catalog.object_counts(ids), counts, strict=True)
        found = [
            self._row(image, offset + place) | {"objects": objects, "detections": detections}
            for place, (image, objects, detections) in enumerate(rows)
        ]
        return {"total": len(chosen), "images": found, "message": predictions.message if predictions else ""}

    def _row(self, image: int, index: int) -> JsonObject:
        """Row of the list of images. index: position in the list."""
        split, (height, width) = self.catalog.place(image)[0].name, self.size(image)
        name = self.catalog.name(image)
        return {"id": image, "index": index, "name": name, "split": split, "height": height, "width": width}

    def size(self, image: int) -> tuple[int | None, int | None]:
        """(height, width) px as declared by the set, else of the file; None if both are unknown."""
        _, dataset, index = self.catalog.place(image)
        height, width = dataset.images.sizes[index].tolist()
        if height < 0:
            height, width = read_header(dataset.path(index)).size
        return (height, width) if height > 0 else (None, None)

    def image(self, image: int, names: Sequence[str], min_score: float) -> JsonObject:
        """One image. names: runs whose detections are included."""
        if len(names) > MAX_RUNS:
            raise InputError(f"run: found {len(names)}, needed at most {MAX_RUNS}")
        split, dataset, index = self.catalog.place(image)
        labels = self.repair.read(image)
        messages = list(labels.messages)
        header = read_header(dataset.path(index))
        if fault := header.fault or scene_fault(dataset.path(index)):
            messages.insert(0, f"{dataset.path(index)}: {fault}")
        height, width = header.size if not header.fault else self.size(image)
        declared = tuple(dataset.images.sizes[index].tolist())
        if not header.fault and declared not in ((-1, -1), header.size):
            messages.append(f"the labels say {declared[1]} x {declared[0]} px, the image has {width} x {height} px")
        usable = np.isfinite(labels.rows.xyxy).all(axis=1)
        if not usable.all():
            messages.append(
                f"not shown: {int((~usable).sum())} of {len(labels.rows)} boxes, whose sides are not numbers"
            )
        objects = self._objects(image, labels.rows, np.flatnonzero(usable))
        detections, evaluated = dict[str, list[JsonObject]](), list[str]()
        for name in names:
            try:
                table = self.runs.by_name(name).predictions(self.catalog)
                detections[name] = self._detections(image, name, table, min_score, objects)
                evaluated += [name] * table.is_evaluated(image, split.name)
            except InputError as error:
                messages.append(str(error))
        for each in objects:
            each["status"] = each["statuses"].get(names[0]) if names else None
        return {
            "id": image,
            "name": self.catalog.name(image),
            "split": split.name,
            "height": height,
            "width": width,
            "revision": labels.revision,
            "objects": objects,
            "detections": detections,
            "evaluated": evaluated,
            "findings": [] if self.audit is None else self.audit.of_image(image, objects),
            "editable": not labels.reason,
            "reason": labels.reason,
            "message": "\n".join(map(one_line, messages)),
        }

    def change(self, image: int, values: JsonObject) -> JsonObject:
        """Change objects of an image, and return it as `image` does."""
        self.repair.change(image, values)
        return self.image(image, (), 0.0)

    def _unopened(self) -> list[str]:
        """Why splits could not be opened."""
        return [f"split {split.name}: {split.message}" for split in self.catalog.splits if split.message]

    def _class(self, name: str) -> str | None:
        """Class of a table of predictions; None for an ignore region."""
        return name if name in self.catalog.classes else None

    def _objects(self, image: int, rows: Boxes, shown: NDArray[np.int64]) -> list[JsonObject]:
        """Objects of an image at the indices `shown`, which are also their ids."""
        _, dataset, _ = self.catalog.place(image)
        rows = rows.take(shown)
        return [
            {
                "id": place,
                "box": box,
                "class": dataset.names[label] if label >= 0 else None,
                "crowd": crowd,
                "difficult": difficult,
                "status": None,
                "statuses": {},
            }
            for place, box, label, crowd, difficult in zip(
                shown.tolist(), rows.xyxy.tolist(), rows.labels.tolist(), rows.crowd.tolist(),
                rows.difficult.tolist(), strict=True,
            )
        ]  # fmt: skip

    def _detections(
        self, image: int, name: str, table: Predictions, min_score: float, objects: list[JsonObject]
    ) -> list[JsonObject]:
        """Detections of a run; the status of `objects` is set.

        The table has the objects' boxes at the time of the evaluation; objects that were changed since have no status.
        """
        own, index = table.of_image(image), ObjectIndex(objects)
        of_row: dict[int, JsonObject] = {}
        for row in np.flatnonzero(table.objects[own]).tolist():
            place = own.start + row
            found = index.find(table.boxes[place].tolist(), self._class(table.names[place]))
            if found is not None:
                of_row[place] = found
                found["statuses"][name] = STATUSES[table.statuses[place]]
        return [
            {
                "box": table.boxes[row].tolist(),
                "class": table.names[row],
                "score": float(table.scores[row]),
                "status": STATUSES[table.statuses[row]],
                "match": of_row.get(int(table.matches[row]), {}).get("id"),
            }
            for row in range(own.start, own.stop)
            if not table.objects[row] and table.scores[row] >= min_score
        ]
