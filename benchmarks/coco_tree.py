"""The labels of a data set, or of some of its images, as the tree of a COCO JSON, for benchmarks that change them."""

from pathlib import Path
from typing import Any

from boxwright.data.dataset import Dataset


def coco_tree(dataset: Dataset) -> dict[str, Any]:
    """The images by their full paths, an annotation for each row in the order of `dataset.rows`, and the categories."""
    ids, rows = dataset.images.ids.tolist(), dataset.rows
    columns = zip(dataset.image_indices().tolist(), rows.xyxy.astype(float).tolist(), strict=True)
    annotations = [
        {
            "id": row + 1,
            "image_id": ids[image],
            "category_id": int(rows.categories[row]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(rows.areas[row]),
            "iscrowd": int(rows.crowd[row]),
        }
        for row, (image, (x1, y1, x2, y2)) in enumerate(columns)
    ]
    images = [{"id": number, "file_name": str(Path(dataset.path(i)).resolve())} for i, number in enumerate(ids)]
    categories = [{"id": int(i), "name": n} for i, n in zip(dataset.category_ids, dataset.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
