"""Head pose over a clip from its face points: an average rigid head fitted to each picture by perspective.

Units: radians and cm; the camera is the one the pack's heads were fitted with. Seen in the picture, yaw is positive to
the right, pitch downwards, roll counter-clockwise; x to the right, y up, z towards the viewer.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from emo_live.types import Float32

FOCAL = 3.0  # focal length in sides of the face's square
DISTANCE_CM = 108.0
SMOOTHING = 1.2  # frames: points of neighbouring pictures jitter by about the head's speed

# Mean of the fitted ICT-FaceKit heads (MIT, Copyright (c) 2020 USC Institute for Creative Technologies) at points that
# speech and expression hardly move, as FaceLandmarker counts them; cm, x to the picture's right, y down, z away.
# fmt: off
RIGID_HEAD: dict[int, tuple[float, float, float]] = {
    33: (-4.75, -3.5, -8.65), 263: (4.75, -3.5, -8.65), 133: (-1.95, -3.35, -9.4), 362: (1.95, -3.35, -9.4),
    168: (0, -3.6, -11.4), 6: (0, -3.0, -11.7), 197: (0, -2.4, -12.0), 195: (0, -1.8, -12.4), 5: (0, -1.3, -12.7),
    4: (0, 0, -13.2), 127: (-7.7, -3.3, -1.9), 356: (7.7, -3.3, -1.9), 234: (-7.65, -1.1, -1.8),
    454: (7.65, -1.1, -1.8), 93: (-7.4, 1.0, -1.8), 323: (7.4, 1.0, -1.8), 10: (0, -9.4, -10.7), 151: (0, -7.3, -11.5),
    9: (0, -5.4, -12.0), 117: (-5.7, -1.4, -8.3), 346: (5.7, -1.4, -8.3), 129: (-2.15, 0.8, -10.45),
    358: (2.15, 0.8, -10.45), 54: (-6.5, -7.3, -6.4), 284: (6.5, -7.3, -6.4),
}
# fmt: on


def head_poses(points: Float32) -> Float32:
    """(T, 478, 2) in shares of the face's square, T pictures at 25 a second -> (T, 6): yaw, pitch, roll, x, y, z
    relative to the clip's median."""
    head = np.array(list(RIGID_HEAD.values()), np.float64)
    seen = np.ascontiguousarray(points[:, list(RIGID_HEAD)], np.float64)
    camera = np.array([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]])
    turn: Any = np.zeros((3, 1))
    place: Any = np.array([[0.0], [0.0], [DISTANCE_CM]])
    rows = []
    for picture in seen:  # each from the pose before it: poses move little
        _, turn, place = cv2.solvePnP(head, picture, camera, None, turn, place, True, cv2.SOLVEPNP_ITERATIVE)
        rows.append([*_angles(cv2.Rodrigues(turn)[0]), *(place[:, 0] * [1, -1, -1])])
    smooth = gaussian_filter1d(np.array(rows), SMOOTHING, axis=0, mode="nearest")
    poses: Float32 = (smooth - np.median(smooth, axis=0)).astype(np.float32)
    return poses


def _angles(rotation: np.ndarray) -> tuple[float, float, float]:
    right, nose = rotation[:, 0], -rotation[:, 2]
    yaw, pitch = np.arctan2(nose[0], -nose[2]), np.arctan2(nose[1], np.hypot(nose[0], nose[2]))
    return float(yaw), float(pitch), float(-np.arctan2(right[1], right[0]))
