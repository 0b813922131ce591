"""Frames per second and memory of `predict` on a video, around a network that takes no time.

    python benchmarks/bench_video.py [--frames 3000] [--size 360 640]

A clip of 300 frames (H.264, with a moving rectangle and noise) is repeated to the number of frames. Measured: reading
it, predicting with 20 boxes a frame to detections.json, the same with tracks of them, and with a drawn video. Prints
frames per second, the CPU time a frame, and the size of the process after a tenth of the frames and at the end.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn

from boxwright import recipe
from boxwright.predict.predictor import Predictor
from boxwright.predict.tracked_output import Tracking
from boxwright.predict.video import predict_video
from boxwright.types import Detections
from boxwright.video.files import VideoFile
from boxwright.video.frames import Selection, VideoFrame

CLIP, BOXES = 300, 20


class Constant(nn.Module):
    """The same boxes in each image."""

    inputs = ("images",)
    raw_names = ("images",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)

    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        corner = torch.arange(BOXES)[:, None] * 2.0
        boxes = torch.cat([corner, corner, corner + 8, corner + 8], dim=1)
        return [Detections(boxes, torch.full((BOXES,), 0.9), torch.arange(BOXES) % 3) for _ in raw[0]]


class Watched(VideoFile):
    """Notes the size of the process, MB, after a tenth of the frames and after the last."""

    sizes: tuple[float, ...] = ()

    def __iter__(self) -> Iterator[VideoFrame]:
        assert self.total is not None
        for frame in super().__iter__():
            yield frame
            if frame.index in (self.total // 10, self.total - 1):
                self.sizes += (
                    int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20,
                )


def write_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Encode the clip once, and write its packets until there are `frames`."""
    height, width = size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (height, width, 3), np.uint8)
    with av.open(str(path.with_name("clip.mp4")), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(CLIP):
            image = np.roll(noise, index, axis=1)
            left = index * (width - 64) // CLIP
            image[height // 3 : height // 3 + 48, left : left + 48, index % 3] = 230
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path.with_name("clip.mp4"))) as source, av.open(str(path), "w") as target:
        packets = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
        stream = target.add_stream_from_template(source.streams.video[0])
        for index in range(frames):
            content, key = packets[index % CLIP]
            packet = av.Packet(content)
            packet.pts = packet.dts = index * 512
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 15_360), key, stream
            target.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640))
    words = parser.parse_args()
    settings = recipe.load("demo", {"data.canvas.size": [64, 64], "predict.batch": 8}).with_names(["a", "b", "c"])
    predictor = Predictor(Constant(), settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.mp4")
        write_clip(path, words.frames, tuple(words.size))
        for what in ("read", "predict --no-draw", "predict --no-draw --track", "predict"):
            begin, cpu = time.perf_counter(), time.process_time()
            with Watched.open(str(path), Selection()) as video:
                if what == "read":
                    count = sum(1 for _ in video)
                else:
                    tracking = Tracking() if "--track" in what else None
                    out = Path(folder, "out")
                    count = predict_video(predictor, video, out, None, tracking, draw=what == "predict").images
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            assert count == words.frames
            tenth, end = video.sizes
            print(
                f"{what}: {count} frames of {words.size[1]} x {words.size[0]} px, {count / seconds:.0f} frames/s, "
                f"{1000 * cpu / count:.2f} ms CPU a frame; {tenth:.1f} MB after a tenth, {end:.1f} MB at the end"
            )


if __name__ == "__main__":
    main()
