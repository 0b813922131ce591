"""Drawing a data set's labels, to inspect them before training."""

from pathlib import Path

from boxwright import tasks
from boxwright.data.dataset import evenly_spaced
from boxwright.errors import printable
from boxwright.files import check_outside, output_folder, write_bytes
from boxwright.images.bands import BandNumbers
from boxwright.images.canvas import read_for_display
from boxwright.images.draw import encode_image
from boxwright.progress import track
from boxwright.tasks.base import ImageSet


def draw_labels(dataset: ImageSet, out: Path, count: int, bands: BandNumbers | None = None) -> str:
    """Draw `count` images, evenly spaced over the data set, into the folder `out`.

    bands: Bands of each image to show, stretched as in `read_for_display`; None for RGB.

    Returns:
        A summary for the user.

    Raises:
        InputError: An image cannot be read, or the folder cannot be written or lies among the data set's images.
    """
    check_outside(out, dataset.folders())
    task, indices = tasks.of_dataset(dataset), evenly_spaced(len(dataset), count)
    with output_folder(out):
        for index in track(indices, len(indices), "drawing labels"):
            image = None if bands is None else read_for_display(dataset.path(index), bands)
            drawn = task.draw_sample(dataset, index, image)
            write_bytes(out / f"{index:06d}_{Path(dataset.path(index)).stem[:60]}.png", encode_image(drawn, ".png"))
    return printable(f"{len(indices)} of {len(dataset)} images of {dataset.split} drawn into {out}")
