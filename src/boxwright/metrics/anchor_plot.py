"""The plot of `data anchors`: sizes of boxes, and the anchors as rectangles."""

from pathlib import Path

from boxwright.data.dataset import evenly_spaced
from boxwright.datatools.anchors import Anchors
from boxwright.images.draw import color
from boxwright.metrics.plots import new_figure, save, tidy

MAX_POINTS = 5000  # maximum number of boxes to draw


def plot(found: Anchors, file: Path) -> None:
    """Write a PNG: left the sizes of the boxes on logarithmic axes, in the color of their anchor; right the anchors."""
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure = new_figure(12, 6)
    sizes, shapes = figure.subplots(1, 2)
    tints = [tuple(channel / 255 for channel in color(number)) for number in range(len(found.anchors))]
    shown = evenly_spaced(len(found.boxes), MAX_POINTS)
    width, height = found.boxes[shown].T
    sizes.scatter(width, height, s=6, alpha=0.4, lw=0, c=[tints[number] for number in found.nearest[shown].tolist()])
    sizes.scatter(*found.anchors.T, s=60, c=tints, marker="s", edgecolors="black", label="anchors")
    sizes.set(title="boxes", xscale="log", yscale="log", xlabel="width, px", ylabel="height, px")
    for axis in (sizes.xaxis, sizes.yaxis):
        axis.set_major_locator(LogLocator(base=2))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())
    sizes.legend(frameon=False)
    side = found.anchors.max() * 0.55
    counts = [int((found.nearest == number).sum()) for number in range(len(found.anchors))]
    for (wide, high), tint, count in zip(found.anchors.tolist(), tints, counts, strict=True):
        label = f"{wide:.0f} x {high:.0f}: {count}"
        shapes.add_patch(Rectangle((-wide / 2, -high / 2), wide, high, fill=False, ec=tint, lw=1.8, label=label))
    shapes.set(
        title=f"anchors: mean IoU {found.iou.mean():.4f}", xlim=(-side, side), ylim=(side, -side), aspect="equal"
    )
    shapes.set(xlabel="px", ylabel="px")
    shapes.legend(title="anchor: boxes", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.suptitle(found.title)
    for axes in (sizes, shapes):
        tidy(axes)
    save(figure, file)
