"""Count the objects that cross a line in a video, by class and direction.

    python examples/count_in_video.py runs/mine clip.mp4 100,400,900,400

Needs the extra video. The line is x1,y1,x2,y2 in px of the video; for a line from left to right, `in` is downwards.
"""

import sys

import boxwright as bw
from boxwright.counting.config import CountingConfig
from boxwright.counting.counter import Counter
from boxwright.predict.tracked_output import tracker_config
from boxwright.predict.video import predict_frames
from boxwright.tracking.tracker import Tracker
from boxwright.video.sources import open_video


def count(predictor, clip: str, line: tuple[float, ...], threshold: float = 0.4) -> dict[str, dict[str, int]]:
    """Returns direction -> class -> number of objects, and prints each crossing."""
    counter = Counter(CountingConfig(lines={"line": line}))
    config = tracker_config(predictor, predictor.args(threshold))  # detections from the threshold on begin tracks
    tracker, args = Tracker(config), predictor.args(config.low)  # and lower ones continue them
    with open_video(clip) as video:
        for frame, found in predict_frames(predictor, video, args, batch=8):
            for event in counter.update(tracker.update(found, frame.image, frame.time), frame.time):
                print(f"{event.time:8.2f} s  {event.name} {event.track} {event.direction}")
        if video.faults:
            sys.exit(f"{clip}: {video.faults[0]}")
    return counter.totals()["line"]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    print(count(bw.load(sys.argv[1]), sys.argv[2], tuple(map(float, sys.argv[3].split(",")))))
