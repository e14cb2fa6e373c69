"""Videos for the eye: one picture with a row for each, moments over its length and its mouth picture by picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emo_live.training.baselines import read_pictures
from emo_live.types import Box, UInt8

SIDE = 160  # px of a moment
MOMENTS = 6
STRIP = 24  # successive pictures of the mouth, in two lines
MOUTH = (SIDE * 5 // 8, SIDE // 2)  # px, width and height
LABEL = 14
MARGIN = 0.45  # of the mouth's width, around it


@dataclass(frozen=True, slots=True)
class Row:
    """mouth: where it is in the portrait, in shares. start: first picture of the strip."""

    label: str
    video: Path
    mouth: Box
    start: int


def draw_sheet(path: Path, rows: Iterable[Row]) -> None:
    """A JPEG. Long videos are read whole."""
    parts = [_row(row) for row in rows]
    Image.fromarray(np.concatenate(parts)).save(path, quality=88)


def _row(row: Row) -> UInt8:
    """(LABEL + SIDE, W, 3)."""
    pictures = read_pictures(row.video)
    moments = [pictures[i] for i in np.linspace(0, len(pictures) - 1, MOMENTS + 2)[1:-1].round().astype(int)]
    start = int(np.clip(row.start, 0, max(0, len(pictures) - STRIP)))
    mouths = [_mouth(picture, row.mouth) for picture in pictures[start : start + STRIP]]
    mouths += [np.zeros_like(mouths[0])] * (STRIP - len(mouths))
    lines = [np.concatenate(mouths[k : k + STRIP // 2], 1) for k in (0, STRIP // 2)]
    shown = np.concatenate([*(_scaled(moment, (SIDE, SIDE)) for moment in moments), np.concatenate(lines)], 1)
    head = Image.new("RGB", (shown.shape[1], LABEL), "white")
    ImageDraw.Draw(head).text((3, 1), row.label, fill="black")
    return np.concatenate([np.asarray(head), shown])


def _scaled(picture: UInt8, size: tuple[int, int]) -> UInt8:
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _mouth(picture: UInt8, box: Box) -> UInt8:
    side = len(picture)
    half = box.width * (0.5 + MARGIN) * side
    (x, y), tall = (c * side for c in box.centre), half * MOUTH[1] / MOUTH[0]
    region = (round(x - half), round(y - tall), round(x + half), round(y + tall))
    return np.asarray(Image.fromarray(picture).crop(region).resize(MOUTH))
