"""Follows the one face of a film: where it is in every picture, which stretches of the film can be used, and which
picture of a stretch is its portrait.

Knows nothing of files, sound or latents. Points are continuous picture px, angles degrees, times seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from emo_live.face.crop import crop_affine
from emo_live.face.landmarker import BLENDSHAPES, IMPORTANT_SHARE, N_POINTS, Face, FaceFinder
from emo_live.face.resample import Affine, scale_of
from emo_live.face.rules import MAX_MISSING_SHARE, MIN_FACE_PX, missing_share
from emo_live.types import Float32, UInt8

MAX_YAW = 25.0  # degrees: a warped portrait shows no more than this
MAX_TURN = 18.0  # degrees away from the portrait
MAX_SHIFT = 0.12  # of the square's side away from the portrait
MIN_S, MAX_S = 2.0, 30.0  # length of a stretch; a longer one is divided, so that its portrait is never old
LOST_FRAMES = 3  # pictures in a row, blurred ones mostly, over which the face may be lost
PAUSE_S = 0.12  # between pictures: more is a hole in the film
CUT_GREY = 22.0  # mean change of a thumbnail's pixels, 0..255, at a cut ...
CUT_JUMP = 0.12  # ... or of the face's place or size, in its own heights
_THUMB, _SHARP_PX = 24, 96
_INNER_LIPS, _CORNERS = (13, 14), (61, 291)
_EYES = ((159, 145, 33, 133), (386, 374, 362, 263))  # upper and lower lid, corners


class Fault(StrEnum):
    """What is wrong with a picture."""

    NONE = ""
    NO_FACE = "no face is found"
    SEVERAL = "several faces are in the picture"
    SMALL = f"the face is less than {MIN_FACE_PX} px high"
    BORDER = "the face is cut off by the picture's border"
    TURNED = "the head is turned too far"
    MOVED = "the head moves too far"
    CUT = "there are cuts"


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """times (N,); points (N, 478, 2), NaN without a face; angles (N, 3) yaw, pitch, roll; arkit (N, 52); sharp (N,),
    how much detail the face has; faults (N,); cut (N,) bool, the picture does not continue the one before."""

    times: np.ndarray
    points: Float32
    angles: Float32
    arkit: Float32
    sharp: Float32
    faults: list[Fault]
    cut: np.ndarray


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pictures start .. stop - 1 of a track, the portrait's index in it, and its square, 512 px to picture px."""

    start: int
    stop: int
    portrait: int
    affine: Affine


def follow(pictures: Iterable[tuple[float, UInt8]], finder: FaceFinder) -> FaceTrack:
    """Finds the face in every picture."""
    rows: list[tuple[float, Float32, Float32, Float32, float]] = []
    faults, cut = [], []
    before: Float32 | None = None
    nothing = np.full((N_POINTS, 2), np.nan, np.float32)
    for time_s, picture in pictures:
        faces = finder.find(picture)
        fault = judge(faces, picture.shape[1], picture.shape[0])
        thumb = cv2.resize(picture, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).mean(2).astype(np.float32)
        cut.append(before is not None and float(np.abs(thumb - before).mean()) > CUT_GREY)
        before = thumb
        if fault in (Fault.NONE, Fault.TURNED):
            face = faces[0]
            arkit = np.array([face.blendshapes[name] for name in BLENDSHAPES], np.float32)
            angles = np.array([face.yaw, face.pitch, face.roll], np.float32)
            rows.append((time_s, face.points, angles, arkit, sharpness(picture, face.points)))
        else:
            rows.append((time_s, nothing, np.zeros(3, np.float32), np.zeros(len(BLENDSHAPES), np.float32), 0.0))
        faults.append(fault)
    times, points, angles, arkit, sharp = (np.array(column) for column in zip(*rows, strict=True)) if rows else _none()
    breaks = np.array(cut, bool) | _jumps(times, points)
    return _bridged(FaceTrack(times, points, angles, arkit, sharp.astype(np.float32), faults, breaks))


def _none() -> tuple[np.ndarray, ...]:
    shapes = ((0,), (0, N_POINTS, 2), (0, 3), (0, len(BLENDSHAPES)), (0,))
    return tuple(np.zeros(shape, np.float32) for shape in shapes)


def judge(faces: list[Face], width: int, height: int) -> Fault:
    """faces: of one picture, the tallest first. Far smaller ones (a poster, a passer-by) do not count."""
    if not faces:
        return Fault.NO_FACE
    main = faces[0]
    if len(faces) > 1 and faces[1].box.height >= IMPORTANT_SHARE * main.box.height:
        return Fault.SEVERAL
    if main.box.height < MIN_FACE_PX:
        return Fault.SMALL
    if missing_share(main.box, width, height) > MAX_MISSING_SHARE:
        return Fault.BORDER
    return Fault.TURNED if abs(main.yaw) > MAX_YAW else Fault.NONE


def sharpness(picture: UInt8, points: Float32) -> float:
    """Contrast of the face's finest detail against that of the face as a whole; the same at every size."""
    low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    x, y = np.maximum(low, 0)
    face = picture[y : high[1], x : high[0]]
    grey = cv2.cvtColor(cv2.resize(face, (_SHARP_PX, _SHARP_PX), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / (grey.std() + 1))


def _jumps(times: np.ndarray, points: Float32) -> np.ndarray:
    """(N,) bool: time, or the face's place or size, leaps between a picture and the one before."""
    if len(times) == 0:
        return np.zeros(0, bool)
    low, high = points.min(1), points.max(1)
    height = high[:, 1] - low[:, 1]
    moved = np.abs(np.diff(np.concatenate([low, high], 1), axis=0)).max(1) / height[1:]
    # comparisons with NaN, where a face is lost, are false: that is a fault, not a cut
    return np.concatenate([[False], (moved > CUT_JUMP) | (np.diff(times) > PAUSE_S)])


def _bridged(track: FaceTrack) -> FaceTrack:
    """The same with faces put back where they are lost for LOST_FRAMES at most."""
    points, angles, arkit = track.points.copy(), track.angles.copy(), track.arkit.copy()
    faults, usable = list(track.faults), np.array([fault is Fault.NONE for fault in track.faults])
    for i in np.flatnonzero(usable[:-1] & ~usable[1:]) if len(usable) else ():
        after = next((j for j in range(int(i) + 2, min(int(i) + LOST_FRAMES + 2, len(usable))) if usable[j]), None)
        if after is None or track.cut[i + 1 : after + 1].any():
            continue
        if _jumps(np.zeros(2), points[np.array([i, after])]).any():
            continue
        if any(fault is not Fault.NO_FACE for fault in faults[i + 1 : after]):
            continue
        for j in range(i + 1, after):
            share = np.float32((j - i) / (after - i))
            for values in (points, angles, arkit):
                values[j] = values[i] + share * (values[after] - values[i])
            faults[j] = Fault.NONE
    return FaceTrack(track.times, points, angles, arkit, track.sharp, faults, track.cut)


def stretches(track: FaceTrack) -> list[Stretch]:
    """Everything of a film that can be used, with a portrait each; no stretch is longer than MAX_S."""
    found = []
    for start, stop in _runs(np.array([fault is Fault.NONE for fault in track.faults], bool), track.cut):
        parts = max(1, int(np.ceil((track.times[stop - 1] - track.times[start]) / MAX_S))) if stop > start else 1
        edges = np.linspace(start, stop, parts + 1).astype(int)
        for first, last in zip(edges[:-1], edges[1:], strict=True):
            if _long_enough(track, first, last):
                found += _around_portrait(track, int(first), int(last))
    return found


def _runs(good: np.ndarray, cut: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of good pictures without a cut between them."""
    runs, start = [], None
    for i, usable in enumerate(good):
        if start is not None and (not usable or cut[i]):
            runs.append((start, i))
            start = None
        if usable and start is None:
            start = i
    return [*runs, (start, len(good))] if start is not None else runs


def _long_enough(track: FaceTrack, start: int, stop: int) -> bool:
    return stop - start > 1 and bool(track.times[stop - 1] - track.times[start] >= MIN_S - 0.1)


def _around_portrait(track: FaceTrack, start: int, stop: int) -> list[Stretch]:
    """The longest part of a stretch in which the head stays near the portrait's pose, if it is long enough."""
    portrait = start + neutral(track, start, stop)
    affine = crop_affine(track.points[portrait])
    near = near_portrait(track, slice(start, stop), portrait)
    runs = [(start + a, start + b) for a, b in _runs(near, np.zeros(len(near), bool))]
    first, last = max(runs, key=lambda run: run[1] - run[0])
    if not _long_enough(track, first, last) or not first <= portrait < last:
        return []
    return [Stretch(first, last, portrait, affine)]


def near_portrait(track: FaceTrack, part: slice, portrait: int) -> np.ndarray:
    """(N,) bool: the head is neither turned nor moved too far for the portrait to be warped there."""
    turned = np.abs(track.angles[part] - track.angles[portrait]).max(1)
    side = scale_of(crop_affine(track.points[portrait])) * 512
    shift = np.median(np.linalg.norm(track.points[part] - track.points[portrait], axis=2), axis=1) / side
    near: np.ndarray = (turned <= MAX_TURN) & (shift <= MAX_SHIFT)
    return near


def neutral(track: FaceTrack, start: int, stop: int) -> int:
    """Index, from start, of the picture that makes the best portrait: mouth closed, eyes open, frontal, sharp, and
    where the head usually is."""
    points, angles, sharp = track.points[start:stop], track.angles[start:stop], track.sharp[start:stop]
    height = np.ptp(points[:, :, 1], axis=1)
    eyes = np.mean([_gap(points, eye[:2]) / _gap(points, eye[2:]) for eye in _EYES], axis=0)
    lips = _gap(points, _INNER_LIPS) / _gap(points, _CORNERS)
    place = points.mean(1)
    away = np.linalg.norm(place - np.median(place, axis=0), axis=1) / height
    level = np.array([0, np.median(angles[:, 1]), 0], np.float32)  # pitch is the camera's as much as the head's
    turned = np.abs(angles - level).sum(1)
    blurred = 1 - np.minimum(sharp / max(float(np.quantile(sharp, 0.9)), 1e-6), 1)
    shut = 1 - np.minimum(eyes / np.quantile(eyes, 0.75), 1)
    pursed = 1 - np.minimum(_gap(points, _CORNERS) / height / np.median(_gap(points, _CORNERS) / height), 1)
    return int(np.argmin(6 * lips + 3 * shut + turned / 12 + 1.5 * blurred + 2 * away + 2 * pursed))


def _gap(points: Float32, pair: tuple[int, ...]) -> Float32:
    distance: Float32 = np.linalg.norm(points[:, pair[0]] - points[:, pair[1]], axis=1).astype(np.float32)
    return distance


def main_fault(track: FaceTrack) -> str:
    """Why a film has no stretch that can be used, in words."""
    if not track.faults:
        return "it has no pictures"
    bad = [fault for fault in track.faults if fault is not Fault.NONE]
    if len(bad) > 0.3 * len(track.faults):
        return str(max(set(bad), key=bad.count))
    if track.times[-1] - track.times[0] < MIN_S - 0.1:
        return f"it is shorter than {MIN_S:.0f} s"
    return str(Fault.CUT if track.cut.any() else Fault.MOVED)
