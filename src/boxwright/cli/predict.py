"""The command `predict`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boxwright.cli.options import (
    Backend,
    BFloat16,
    Cfg,
    ClassNames,
    Compile,
    Device,
    Overlap,
    Overrides,
    Ray,
    RecipeOption,
    TrustFile,
    Weights,
    class_list,
    local_sources,
    output,
)
from boxwright.cli.output import echo
from boxwright.cli.tables import TABLE, ShardOption, table_form, write_table
from boxwright.cli.video import (
    As,
    CameraMotion,
    Counting,
    Fps,
    Lines,
    MaxFps,
    Start,
    Stop,
    Stride,
    Track,
    Zones,
    the_video,
    tracking_of,
)
from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.predict.output import Summary
    from boxwright.predict.predictor import AnyPredictor
    from boxwright.predict.tracked_output import Tracking
    from boxwright.tasks import PostprocessArgs
    from boxwright.video.frames import Video


def predict(
    weights: Weights,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            callback=local_sources,
            help="Images, folders, .zip, .tar, quoted globs; or a video: a file, rtsp://, http://, a camera, %06d.jpg.",
        ),
    ],
    recipe: RecipeOption = None,
    cfg: Cfg = None,
    names_file: ClassNames = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            callback=output,
            help="Folder for the drawn images and the predictions. [default: detections; classes for a classifier]",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Classifier: classes per image. [default: 5]")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=1, help="Minimum score.")] = None,
    nms: Annotated[float | None, typer.Option("--nms", min=0, max=1, help="IoU threshold of NMS.")] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Only these classes, e.g. car,truck; a JSON list for names with a comma."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option("--tile", min=1, help="Predict on tiles of this many px, for images of any size.")
    ] = None,
    overlap: Overlap = None,
    geojson: Annotated[
        bool, typer.Option("--geojson", help="With --tile: require GeoJSON output, else only for georeferenced images.")
    ] = False,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Write images with the predictions drawn.")] = True,
    as_: As = None,
    shard: ShardOption = None,
    ray: Ray = None,
    stride: Stride = None,
    start: Start = None,
    stop: Stop = None,
    max_fps: MaxFps = None,
    fps: Fps = None,
    track: Track = False,
    camera_motion: CameraMotion = False,
    line: Lines = None,
    zone: Zones = None,
    counting: Counting = None,
    set_: Overrides = None,
    device: Device = "auto",
    backend: Backend = "auto",
    bfloat16: BFloat16 = False,
    compile_: Compile = False,
    trust_file: TrustFile = False,
) -> None:
    """Detect objects in images or a video and draw them; with a classifier, predict the classes of images."""
    as_ = table_form(as_, shard, ray)
    _check_tiles(tile, overlap, geojson, as_)
    from boxwright import tasks
    from boxwright.images.fetch import fetched
    from boxwright.predict import loading, output, scene_output
    from boxwright.predict.predictor import load
    from boxwright.predict.tiled import Tiling
    from boxwright.runtimes.base.runtime import RuntimeOptions
    from boxwright.video.frames import Selection
    from boxwright.video.sources import open_video

    resolved = loading.recipe_of(weights, loading.given_recipe(recipe, cfg, names_file))
    task = tasks.of(resolved)
    tracking = tracking_of(track, camera_motion, line, zone, counting)
    options = {
        "--threshold": threshold,
        "--nms": nms,
        "--classes": classes,
        "--tile": tile,
        "--top-k": top_k,
        "--shard": shard,
        "--ray": ray,
        "--as": as_,
        "--track": tracking,
    }
    task.check_options(resolved, options)
    _check_labels(as_, tracking)
    out = out or task.results_key
    batch = resolved.with_overrides(set_ or ()).predict.batch
    of_videos: dict[str, object] = {"--stride": stride, "--start": start, "--stop": stop, "--max-fps": max_fps}
    of_tables = {"--shard": shard, "--ray": ray, f"--as {TABLE}": as_ if as_ == TABLE else None}
    source = the_video(sources, of_videos | {"--fps": fps, "--track": tracking}, {"--tile": tile, **of_tables})
    with ExitStack() as stack:
        if source is not None:  # opened first, since loading takes seconds
            selection = Selection(stride or 1, start or 0.0, stop, max_fps)
            opened = stack.enter_context(open_video(source, selection, fps))
            batch = 1 if opened.live else batch
        else:
            _check_files(sources, {"--tile": tile, "--ray": ray})
            titles = stack.enter_context(fetched(sources))
            if tile is None and as_ != TABLE:  # a table does not depend on the number of images, bit for bit
                batch = min(batch, len(output.find_images(list(titles), Path(out))))
        runtime_options = RuntimeOptions(batch, fuse=True, bfloat16=bfloat16, compile=compile_, trust=trust_file)
        here = "cpu" if ray else device  # each actor has its own device
        predictor = load(
            weights, resolved, here, overrides=set_ or (), backend=backend, runtime_options=runtime_options
        )
        names = class_list(classes, predictor.recipe.data.names) if classes else None
        tiling = None if tile is None else Tiling(tile, 0.2 if overlap is None else overlap)
        args = task.args(predictor.recipe, threshold, nms, names, top_k)
        if as_ == TABLE:
            summary = write_table(predictor, titles, out, args, tiling, shard, ray, device)
        elif tiling is not None:
            summary = scene_output.predict_scenes_to_folder(
                predictor, list(titles), out, tiling, threshold, nms, names, geojson=geojson, draw=draw
            )
        elif source is None:
            summary = _predict_images(predictor, titles, out, args, as_, draw)
        else:
            summary = _predict_video(predictor, opened, out, args, as_, tracking, draw)
    echo("\n".join(summary.lines()))
    raise typer.Exit(1 if summary.failed else 0)


def _check_tiles(tile: int | None, overlap: float | None, geojson: bool, as_: str | None) -> None:
    """Raise InputError for options that exclude --tile, or need it."""
    if as_ not in (None, TABLE) and tile is not None:
        raise InputError("--as and --tile: found both, needed one; label tools take whole images")
    if geojson and as_ == TABLE:
        raise InputError(f"--geojson and --as {TABLE}: found both, needed one; the table has the polygons")
    if tile is None and (overlap is not None or geojson):
        raise InputError("--overlap and --geojson go with --tile; add for example --tile 600")


def _check_labels(as_: str | None, tracking: "Tracking | None") -> None:
    """Raise InputError for an unknown value of --as, or for --as together with tracks."""
    from boxwright.predict.prelabels import check_layout

    if as_ is not None and tracking is not None:
        option, what = (f"--as {TABLE}, --shard or --ray", "tables") if as_ == TABLE else ("--as", "labels")
        raise InputError(f"{option} and --track: found both, needed one; {what} have no tracks")
    if as_ not in (None, TABLE):
        check_layout(as_)


def _check_files(sources: Sequence[str], options: Mapping[str, object]) -> None:
    """Raise InputError for addresses, which the given options (those that are not None) do not support."""
    from boxwright.images.fetch import is_image_address
    from boxwright.remote.address import shown

    given = [name for name, value in options.items() if value is not None]
    if given and (addresses := [shown(name) for name in sources if is_image_address(name)]):
        raise InputError(f"{given[0]}: goes with files, found {addresses[0]}; download it first")


def _predict_images(
    predictor: "AnyPredictor",
    titles: Mapping[str, str],
    out: str,
    args: "PostprocessArgs",
    as_: str | None,
    draw: bool,
) -> "Summary":
    """Write the predictions or labels of whole images. titles: path of each source -> its name in the results."""
    from boxwright.predict import output, prelabels

    if as_ is not None:
        return prelabels.prelabel_images(predictor, list(titles), out, as_, args)
    return output.predict_to_folder(predictor, list(titles), out, args, draw=draw, titles=titles)


def _predict_video(
    predictor: "AnyPredictor",
    opened: "Video",
    out: str,
    args: "PostprocessArgs",
    as_: str | None,
    tracking: "Tracking | None",
    draw: bool,
) -> "Summary":
    """Write the predictions or labels of a video."""
    from boxwright.predict import prelabels, video

    if as_ is not None:
        return prelabels.prelabel_video(predictor, opened, out, as_, args)
    return video.predict_video(predictor, opened, out, args, tracking, draw=draw)
