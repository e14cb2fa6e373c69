"""The inside of the mouth: teeth moved to where people have them, and its light. Head space, cm.

ICT-FaceKit's upper incisors end just behind the lip's edge and its lower molars stand as high as the incisors, so that
hardly any mouth would show upper teeth. Knows nothing of one portrait's own teeth but their colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emo_live.types import Float32

FRONT_CM = 0.9  # teeth nearer to the middle than this stay as high as they are; beyond it, cm per cm to the side:
UPPER_RISE = 0.22
LOWER_FALL = 0.35
LOWER_DROP_CM = 0.1  # and all lower teeth sink by this
WIDER = np.array([0.13, 0.0, 0.13], np.float32)  # share by which each tooth grows in x, y, z: closes the gaps
CROWN_CM = 1.3  # from the tips up to here, gums are painted like teeth: closes the gaps that are left
ARCH_MIDDLE_CM = 5.0  # z of the point around which teeth stand in an arch
BETWEEN_LIGHT = 0.5  # of where a tooth meets its neighbour, against its middle
TONGUE_RISE_CM = 0.3

CAVITY_COLOUR = np.array([0.30, 0.10, 0.09], np.float32)
GUM_COLOUR = np.array([0.74, 0.38, 0.37], np.float32)
LOWER_TEETH_LIGHT = 0.72
LIGHT_FROM = np.array([0.0, 0.4, 0.92], np.float32)


@dataclass(frozen=True, slots=True)
class Interior:
    """Who is who inside. All (V,) over the head's vertices.

    cavity, gums, teeth, upper: bool, `upper` being what the jaw does not move; crown, tongue: share 0..1; between: 0 in
    the middle of a tooth, 1 at its sides; tip: the vertex where the upper incisors end.
    """

    cavity: NDArray[np.bool_]
    gums: NDArray[np.bool_]
    teeth: NDArray[np.bool_]
    upper: NDArray[np.bool_]
    crown: Float32
    tongue: Float32
    between: Float32
    tip: int

    @property
    def everything(self) -> NDArray[np.bool_]:
        return self.cavity | self.gums | self.teeth


def settle(
    neutral: Float32, jaw_open: Float32, parts: dict[str, slice], piece: NDArray[np.int64]
) -> tuple[Float32, Interior]:
    """neutral, jaw_open: (V, 3) resting head and what jawOpen adds; piece: (V,) connected pieces of the inside.

    Returns the neutral head with its inside rearranged, and who is who.
    """
    where = {name: np.zeros(len(neutral), np.bool_) for name in ("cavity", "gums", "teeth")}
    for name, mask in where.items():
        mask[parts[name]] = True
    fixed = np.abs(jaw_open).max(1) < 0.2
    upper = (where["gums"] | where["teeth"]) & fixed
    lower_teeth = where["teeth"] & ~fixed
    upper_teeth = np.flatnonzero(where["teeth"] & fixed)
    tip = int(upper_teeth[neutral[upper_teeth, 1].argmin()])

    head = neutral.copy()
    side = np.clip(np.abs(head[:, 0]) - FRONT_CM, 0, 2)
    head[upper, 1] += UPPER_RISE * side[upper]
    above_tips = head[:, 1] - head[tip, 1] - UPPER_RISE * side
    crown = np.clip((CROWN_CM - above_tips) / 0.15 + 0.5, 0, 1) * upper
    between = _between(head, piece, where["teeth"])
    _widen(head, piece, where["teeth"])
    head[lower_teeth, 1] -= LOWER_DROP_CM + LOWER_FALL * side[lower_teeth]
    narrow, forward = 1.3 - np.abs(head[:, 0]) / 1.4, (9.5 - head[:, 2]) / 0.8
    tongue = np.clip(narrow, 0, 1) * np.clip(forward, 0, 1) * (where["gums"] & ~fixed)
    head[:, 1] += TONGUE_RISE_CM * tongue
    return head, Interior(**where, upper=upper, crown=crown, tongue=tongue.astype(np.float32), between=between, tip=tip)


def _one_by_one(piece: NDArray[np.int64], teeth: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """(V,) masks: every tooth is a connected piece."""
    for number in np.unique(piece[teeth]):
        yield teeth & (piece == number)


def _between(head: Float32, piece: NDArray[np.int64], teeth: NDArray[np.bool_]) -> Float32:
    """(V,) 0 in the middle of each tooth, seen from the middle of their arch, 1 at its sides; 0 elsewhere."""
    around = np.arctan2(head[:, 0], head[:, 2] - ARCH_MIDDLE_CM)
    out = np.zeros(len(head), np.float32)
    for tooth in _one_by_one(piece, teeth):
        low, high = around[tooth].min(), around[tooth].max()
        out[tooth] = np.abs(2 * around[tooth] - low - high) / (high - low)
    return out


def _widen(head: Float32, piece: NDArray[np.int64], teeth: NDArray[np.bool_]) -> None:
    """Grows every tooth about its middle; in place."""
    for tooth in _one_by_one(piece, teeth):
        head[tooth] += (head[tooth] - head[tooth].mean(0)) * WIDER


def paint(inside: Interior, shape: Float32, normals: Float32, lip: int, tooth_colour: Float32) -> Float32:
    """(V, 4) colours: red, green, blue in 0..1 with the light that falls on them, and 1 where own teeth may be shown.

    shape, normals: (V, 3) of this portrait's head; lip: vertex at the upper lip's inner edge; tooth_colour (3,) 0..1.
    """
    colours = np.zeros((len(shape), 4), np.float32)
    brightness = np.clip(tooth_colour.mean() / 0.8, 0.55, 1.05)
    colours[inside.cavity, :3] = CAVITY_COLOUR * brightness
    colours[inside.teeth, :3] = tooth_colour
    crown = inside.crown[inside.gums, None]
    colours[inside.gums, :3] = GUM_COLOUR * brightness * (1 - crown) + tooth_colour * 0.9 * crown
    colours[:, :3] *= _light(inside, shape, normals, lip)[:, None]
    colours[inside.upper, 3] = 1
    return colours


def _light(inside: Interior, shape: Float32, normals: Float32, lip: int) -> Float32:
    """(V,) 0..1: less far behind the lips and on what faces away from the light."""
    behind = shape[lip, 2] - shape[:, 2]
    facing = np.clip(normals @ LIGHT_FROM, 0, 1)

    def falloff(start: float, reach_cm: float, least: float, power: float, ambient: float) -> Float32:
        depth = np.clip(start - behind / reach_cm, least, 1) ** power
        return np.asarray(depth * (ambient + (1 - ambient) * facing), np.float32)

    tissue = falloff(1.15, 3.4, 0.22, 1.6, 0.6)
    tongue = falloff(1.2, 6.5, 0.1, 1.7, 0.5)
    tooth = falloff(1.2 + 0.5 / 2.8, 2.8, 0.05, 1.8, 0.75)
    lip_shadow = 1 - 0.25 * np.clip(shape[:, 1] - shape[inside.tip, 1], 0, 1)
    light = tissue + (tongue - tissue) * inside.tongue
    light = np.where(inside.upper, np.clip(1.2 - behind / 3, 0.1, 1), light)
    tooth *= 1 - (1 - BETWEEN_LIGHT) * inside.between**4
    light = np.where(inside.teeth, tooth * np.where(inside.upper, lip_shadow, LOWER_TEETH_LIGHT), light)
    return np.asarray(light, np.float32)
