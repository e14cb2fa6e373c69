"""Finds faces and their 478 points with the three MediaPipe FaceLandmarker nets on OpenVINO.

Points are continuous picture px: x to the right, y down, the left edge of the first pixel is 0. The nets are read and
compiled once, at first use; one FaceFinder may be used from several threads. Does not judge whether a face is usable.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emo_live.face.detector import Candidate, find_candidates, iou
from emo_live.face.resample import rotated_square, sample
from emo_live.inference import GraphCache, graph_name, inference_options, openvino_core
from emo_live.types import Box, Float32, UInt8

N_POINTS = 478
IMPORTANT_SHARE = 0.25
_ASSETS = Path(__file__).parent.parent / "assets" / "face"
_MESH_PX = 256
_ROI_SCALE = 1.5
_MAX_PASSES = 3
# Real faces score above 0.99; texture that looks like one stays below 0.9.
_MIN_PRESENCE = 0.9
_LOST = 0.5
_SAME_FACE_IOU = 0.35

# Points of the mesh used here: outer eye corners, cheeks beside the ears, forehead, chin.
_EYE_CORNERS = (33, 263)
_SIDES = (234, 454)
_FOREHEAD, _CHIN = 10, 152

# fmt: off
# The points that the blendshape net reads, and the names of its outputs, in its own order.
_EXPRESSION_POINTS = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)
BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)
# fmt: on


@dataclass(frozen=True)
class Face:
    """One face. points: (478, 2) float32 px; score: 0..1, how sure the mesh net is that there is a face.

    Degrees, as seen in the picture: yaw positive when the face looks to the right, pitch downwards, roll
    counter-clockwise. box: around the points.
    """

    box: Box
    points: Float32
    score: float
    yaw: float
    pitch: float
    roll: float
    _express: Callable[[Float32], dict[str, float]] = field(repr=False, compare=False)

    @cached_property
    def blendshapes(self) -> dict[str, float]:
        """52 expression coefficients in 0..1 by their ARKit names; computed when first asked for."""
        return self._express(self.points)


@dataclass(frozen=True, slots=True)
class _Roi:
    """A square around a face: centre and side in px, angle in radians, clockwise as seen."""

    x: float
    y: float
    side: float
    angle: float

    def fits(self, tight: _Roi) -> bool:
        """Whether this detector-like square is where the detector would have put it for that square of points."""
        usual = tight.as_detected()
        shift = math.hypot(self.x - usual.x, self.y - usual.y) / usual.side
        turn = math.remainder(self.angle - usual.angle, math.tau)
        return abs(self.side / usual.side - 1) < 0.12 and shift < 0.1 and abs(turn) < math.radians(8)

    def as_detected(self) -> _Roi:
        """From the square of the points to the detector's usual box: a little smaller and lower."""
        side = self.side / 1.083
        down = 0.028 * side
        return _Roi(self.x - down * math.sin(self.angle), self.y + down * math.cos(self.angle), side, self.angle)


class FaceFinder:
    """threads: how many CPU threads the nets may use; 1 keeps results the same on every machine of one kind."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._nets: dict[str, Any] = {}
        self._lock = threading.Lock()

    def find(self, picture: UInt8) -> list[Face]:
        """Return the faces of an (H, W, 3) uint8 RGB picture, the tallest first; an empty list if there is none.

        Faces much smaller than the largest (under a quarter of its height) may be missing.
        """
        with self._lock:
            candidates = find_candidates(picture, self._detect, IMPORTANT_SHARE)
            faces: list[Face] = []
            for candidate in candidates:
                face = self._mesh(picture, candidate)
                if face is not None and not any(_same(face, other) for other in faces):
                    faces.append(face)
        return sorted(faces, key=lambda face: -face.box.height)

    def _detect(self, tile: Float32) -> tuple[Float32, Float32]:
        result = self._net("face_detector")(tile)
        return np.asarray(result["regressors"][0]), np.asarray(result["classificators"][0, :, 0])

    def _mesh(self, picture: UInt8, candidate: Candidate) -> Face | None:
        """Points of the face at a candidate; read again where the candidate's box did not fit them well.

        A good box is not replaced by the points' own square: the training data was measured with detector boxes.
        """
        left, top, right, bottom = (float(v) for v in candidate.box)
        roi = _Roi((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top), _angle(*candidate.eyes))
        for _ in range(_MAX_PASSES):
            if roi.side < 1:
                return None
            points, score = self._run_mesh(picture, roi)
            tight = _roi_around(points)
            if score < _LOST or roi.fits(tight):
                break
            roi = tight.as_detected()
        if score < _MIN_PRESENCE:
            return None
        yaw, pitch, roll = head_angles(points)
        flat = np.ascontiguousarray(points[:, :2])
        low, high = flat.min(axis=0), flat.max(axis=0)
        box = Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        return Face(box, flat, score, yaw, pitch, roll, self._expression)

    def _run_mesh(self, picture: UInt8, roi: _Roi) -> tuple[Float32, float]:
        """Points (478, 3) in picture px (z towards the back) and the presence score of one turned square."""
        side = roi.side * _ROI_SCALE
        affine = rotated_square((roi.x, roi.y), side, roi.angle, _MESH_PX)
        crop = sample(picture, affine, _MESH_PX)
        result = self._net("face_landmarks_detector")(crop.astype(np.float32)[None] / 255)
        local = np.asarray(result["Identity"]).reshape(N_POINTS, 3).astype(np.float64)
        score = 1 / (1 + math.exp(-float(np.clip(np.asarray(result["Identity_1"]).item(), -50, 50))))
        moved = np.empty_like(local)
        moved[:, :2] = (local[:, :2] - 0.5) @ affine[:, :2].T + affine[:, 2] + 0.5
        moved[:, 2] = local[:, 2] * side / _MESH_PX
        return moved.astype(np.float32), score

    def _expression(self, points: Float32) -> dict[str, float]:
        with self._lock:
            result = self._net("face_blendshapes")(points[None, _EXPRESSION_POINTS, :])
        values = np.asarray(result[0]).reshape(-1)
        return {name: float(value) for name, value in zip(BLENDSHAPES, values, strict=True)}

    def load(self) -> None:
        """Compiles all networks now, not with the first picture."""
        for name in ("face_detector", "face_landmarks_detector", "face_blendshapes"):
            self._net(name)

    def _net(self, name: str) -> Any:
        if name not in self._nets:
            # Points must not depend on whether the CPU has a 16-bit float unit.
            config = inference_options(self._threads, "f32")
            path, cache = _ASSETS / f"{name}.tflite", GraphCache.of_user()
            kept = graph_name(config, path.read_bytes())
            self._nets[name], known = cache.network(kept, config, lambda: openvino_core().read_model(path))
            if not known:
                cache.keep(kept, self._nets[name])
        return self._nets[name]


def head_angles(points: Float32) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of (478, 3) points; signs as in Face."""
    right = points[_EYE_CORNERS[1]] - points[_EYE_CORNERS[0]] + points[_SIDES[1]] - points[_SIDES[0]]
    right = right / max(float(np.linalg.norm(right)), 1e-6)
    down = points[_CHIN] - points[_FOREHEAD]
    down = down - right * float(down @ right)
    down = down / max(float(np.linalg.norm(down)), 1e-6)
    nose = -np.cross(right, down)
    yaw = math.degrees(math.atan2(float(nose[0]), -float(nose[2])))
    pitch = math.degrees(math.atan2(float(nose[1]), math.hypot(float(nose[0]), float(nose[2]))))
    roll = -math.degrees(_angle(points[_EYE_CORNERS[0]], points[_EYE_CORNERS[1]]))
    return yaw, pitch, roll


def _angle(a: Float32, b: Float32) -> float:
    return math.atan2(float(b[1] - a[1]), float(b[0] - a[0]))


def _roi_around(points: Float32) -> _Roi:
    """The smallest square, turned until the eyes are level in it, that holds the points."""
    angle = _angle(points[_EYE_CORNERS[0]], points[_EYE_CORNERS[1]])
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = points[:, :2] @ np.array([cos, sin]), points[:, :2] @ np.array([-sin, cos])
    u, v = float(along.min() + along.max()) / 2, float(across.min() + across.max()) / 2
    side = max(float(np.ptp(along)), float(np.ptp(across)))
    return _Roi(u * cos - v * sin, u * sin + v * cos, side, angle)


def _same(a: Face, b: Face) -> bool:
    """Whether two meshes lie on one face: found twice, or one inside the other."""
    boxes = [np.array([f.box.left, f.box.top, f.box.right, f.box.bottom], dtype=np.float32) for f in (a, b)]
    if iou(boxes[0], boxes[1]) > _SAME_FACE_IOU:
        return True
    small, large = (a, b) if a.box.height < b.box.height else (b, a)
    x, y = small.box.centre
    return large.box.left < x < large.box.right and large.box.top < y < large.box.bottom
