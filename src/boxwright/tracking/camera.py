"""Camera motion between frames: sparse optical flow, and the similarity transform that most of the flow follows."""

import cv2
import numpy as np

from boxwright.arrays import Array

MAX_SIDE = 480  # px of the frames in which flow is computed
MAX_POINTS = 400
QUALITY = 0.01  # of a corner, relative to the best one
MIN_DISTANCE = 8  # px between corners
MAX_ERROR = 2.0  # px of flow from the transform, in the small frame
MIN_POINTS = 12  # points that follow the transform; with fewer the camera counts as still


class CameraMotion:
    """Estimates the motion of the camera from frame to frame."""

    def __init__(self) -> None:
        self._last: Array | None = None

    def update(self, frame: Array) -> Array:
        """The transform from the last frame to this one.

        Args:
            frame: uint8 RGB (h, w, 3). After a frame of another size, the camera counts as still.

        Returns:
            (2, 3) float64: maps homogeneous (x, y, 1) px of the last frame to px of this one.
        """
        height, width = frame.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        gray = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), small, interpolation=cv2.INTER_AREA)
        last, self._last = self._last, gray
        still = np.eye(2, 3)
        if last is None or last.shape != gray.shape:
            return still
        corners = cv2.goodFeaturesToTrack(last, MAX_POINTS, QUALITY, MIN_DISTANCE)
        if corners is None or len(corners) < MIN_POINTS:
            return still
        moved, found, _ = cv2.calcOpticalFlowPyrLK(last, gray, corners, None)  # type: ignore[call-overload]
        kept = found[:, 0] == 1
        if kept.sum() < MIN_POINTS:
            return still
        affine, inliers = cv2.estimateAffinePartial2D(corners[kept], moved[kept], ransacReprojThreshold=MAX_ERROR)
        if affine is None or inliers.sum() < MIN_POINTS:
            return still
        affine[:, 2] /= scale
        result: Array = affine
        return result
