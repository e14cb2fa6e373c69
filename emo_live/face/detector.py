"""Finds candidate faces with MediaPipe's short-range detector: 128 px input, 896 anchors, six key points a face.

Runs on the whole picture and, while faces that matter could still be too small to see, on overlapping tiles of
finer and finer levels. Positions are continuous picture px (the left edge of the first pixel is 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emo_live.face.resample import resize
from emo_live.types import Float32, UInt8

INPUT_PX = 128
MIN_SCORE = 0.5
MAX_CANDIDATES = 16
# A face of this share of a tile's side is still found reliably.
_SEEN_SHARE = 0.15
_SAME_IOU = 0.3
_MIN_TILE_PX = 200
_STEP_PX = INPUT_PX // 2

DetectorNet = Callable[[Float32], tuple[Float32, Float32]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """box: left, top, right, bottom. eyes: (2, 2), the eye on the left of an upright picture first."""

    box: Float32
    eyes: Float32
    score: float


def anchor_centres() -> Float32:
    """(896, 2) centres in shares of the input: 2 at every 8 px, then 6 at every 16 px, row by row."""
    parts = []
    for cells, per_cell in ((16, 2), (8, 6)):
        rows, columns = np.mgrid[0:cells, 0:cells]
        grid = np.stack([columns, rows], axis=-1).reshape(-1, 2)
        parts.append(np.repeat((grid + 0.5) / cells, per_cell, axis=0))
    return np.concatenate(parts).astype(np.float32)


def find_candidates(picture: UInt8, net: DetectorNet, important_share: float) -> list[Candidate]:
    """Return candidates, best first, at most MAX_CANDIDATES.

    net: (1, 128, 128, 3) float32 in -1..1 -> regressors (896, 16), logits (896,). important_share: a face counts
    when it has at least this share of the largest one's height; smaller ones are not searched for.
    """
    anchors = anchor_centres()
    long_side = max(picture.shape[:2])
    found = _scan(picture, 1.0, net, anchors)
    if not found:
        found = _scan(picture, 0.5, net, anchors)  # the face may fill the picture
    level = 2
    while long_side / level >= _MIN_TILE_PX:
        largest = max((float(c.box[3] - c.box[1]) for c in found), default=0.0)
        if found and largest * important_share >= _SEEN_SHARE * long_side * 2 / level:
            break
        found = _merge(found + _scan(picture, float(level), net, anchors))
        level *= 2
    return found[:MAX_CANDIDATES]


def _scan(picture: UInt8, level: float, net: DetectorNet, anchors: Float32) -> list[Candidate]:
    """Look at every 128 px tile of the picture reduced to a long side of 128 * level px."""
    height, width = picture.shape[:2]
    ratio = INPUT_PX * level / max(height, width)
    small_w, small_h = max(1, round(width * ratio)), max(1, round(height * ratio))
    small = resize(picture, small_w, small_h)
    pad_x, pad_y = max(0, INPUT_PX - small_w), max(0, INPUT_PX - small_h)
    left, top = pad_x // 2, pad_y // 2
    small = np.pad(small, ((top, pad_y - top), (left, pad_x - left), (0, 0)))
    per_px = np.array([width / small_w, height / small_h], dtype=np.float32)
    found: list[Candidate] = []
    for y in _starts(small.shape[0]):
        for x in _starts(small.shape[1]):
            tile = small[y : y + INPUT_PX, x : x + INPUT_PX].astype(np.float32)[None] / 127.5 - 1
            inner = (x > 0, y > 0, x + INPUT_PX < small.shape[1], y + INPUT_PX < small.shape[0])
            offset = np.array([x - left, y - top], dtype=np.float32)
            found += _decode(*net(tile), anchors, inner, offset, per_px)
    return _merge(found)


def _starts(length: int) -> list[int]:
    last = length - INPUT_PX
    return [*range(0, last, _STEP_PX), last]


def _decode(
    regressors: Float32,
    logits: Float32,
    anchors: Float32,
    inner: tuple[bool, bool, bool, bool],
    offset: Float32,
    per_px: Float32,
) -> list[Candidate]:
    """Net outputs of one tile -> candidates in picture px.

    inner: which sides (left, top, right, bottom) have more picture beyond them; a box that touches one is a part of
    a face that a neighbouring tile shows whole. offset: of the tile; per_px: picture px per tile px, x and y.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
    found = []
    for i in np.flatnonzero(scores >= MIN_SCORE):
        numbers = regressors[i].reshape(8, 2)
        centre = numbers[0] + anchors[i] * INPUT_PX
        half = numbers[1] / 2
        box = np.concatenate([centre - half, centre + half])
        beyond = (box[0] < 1, box[1] < 1, box[2] > INPUT_PX - 1, box[3] > INPUT_PX - 1)
        if any(a and b for a, b in zip(inner, beyond, strict=True)):
            continue
        eyes = numbers[2:4] + anchors[i] * INPUT_PX
        points = (np.concatenate([box.reshape(2, 2), eyes]) + offset) * per_px
        found.append(
            Candidate(points[:2].reshape(4).astype(np.float32), points[2:].astype(np.float32), float(scores[i]))
        )
    return found


def _merge(found: list[Candidate]) -> list[Candidate]:
    """Non-maximum suppression that averages overlapping boxes by their scores; best first."""
    rest = sorted(found, key=lambda c: -c.score)
    merged = []
    while rest:
        best = rest[0]
        same = [c for c in rest if iou(best.box, c.box) > _SAME_IOU]
        chosen = {id(c) for c in same} | {id(best)}
        rest = [c for c in rest if id(c) not in chosen]
        group = same or [best]
        weights = np.array([c.score for c in group], dtype=np.float32)
        weights /= weights.sum()
        box = sum((w * c.box for w, c in zip(weights, group, strict=True)), np.zeros(4, np.float32))
        eyes = sum((w * c.eyes for w, c in zip(weights, group, strict=True)), np.zeros((2, 2), np.float32))
        merged.append(Candidate(box, eyes, best.score))
    return merged


def iou(a: Float32, b: Float32) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = float(width * height)
    total = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - common
    return common / total if total > 0 else 0.0
