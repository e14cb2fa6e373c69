"""Batches of rendered frames for the autoencoder, with flips, colour changes and a mouth square that moves a little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.engine.pictures import MOUTH_SIZE, PORTRAIT_SIZE
from emo_live.errors import BadInputError
from emo_live.training.shards import MARGIN, as_motion

_STEP = 4  # px of the 512 px picture per pixel of flow: squares start at multiples of it


@dataclass(frozen=True, slots=True)
class Shard:
    """One portrait's frames; arrays as shards.py writes them."""

    frames: np.ndarray
    motion: np.ndarray
    mouth: np.ndarray
    portrait: np.ndarray
    origin: np.ndarray
    boxes: np.ndarray
    incisors: np.ndarray


def load_shards(folder: Path, names: list[str]) -> list[Shard]:
    keys = [field.name for field in fields(Shard)]
    shards = []
    for name in names:
        path = folder / f"{name}.npz"
        if path.exists():
            with np.load(path) as file:
                shards.append(Shard(*(file[key] for key in keys)))
    if not shards:
        raise BadInputError(f"no frames in {folder}: draw them with `emo-live train frames`")
    return shards


class FrameBatches:
    """Random batches of `portraits` portraits x `per_portrait` frames; values in [-1, 1], motion in px of 128.

    slack: px of the 512 px portrait by which the mouth's square may be off, at most MARGIN.
    """

    def __init__(self, shards: list[Shard], portraits: int, per_portrait: int, seed: int, slack: int = MARGIN):
        self.shards, self.portraits, self.per_portrait, self.slack = shards, portraits, per_portrait, slack
        self.random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.draw()

    def draw(self) -> dict[str, Tensor]:
        """frame (B, 3, 256, 256), motion (B, 3, 128, 128), mouth (B, 3, S, S), portrait (B, 3, 512, 512),
        origin (B, 2) px, boxes (B, 3, 4) shares, middle (B,) px from the square's middle to the incisors'."""
        rows: dict[str, list[Tensor]] = {}
        for k in self.random.choice(len(self.shards), self.portraits, replace=self.portraits > len(self.shards)):
            shard, flip = self.shards[k], bool(self.random.random() < 0.5)
            gain = torch.tensor(self.random.uniform(0.75, 1.25) * self.random.uniform(0.92, 1.08, 3))
            shift = float(self.random.uniform(-0.12, 0.12))
            colour = (gain.float()[:, None, None], shift)
            corner = MARGIN - self.slack + self.random.integers(0, 2 * self.slack // _STEP + 1, 2) * _STEP
            for i in self.random.choice(len(shard.frames), self.per_portrait, replace=False):
                for name, value in _row(shard, int(i), flip, colour, corner).items():
                    rows.setdefault(name, []).append(value)
        return {name: torch.stack(values) for name, values in rows.items()}


def _row(shard: Shard, i: int, flip: bool, colour: tuple[Tensor, float], corner: np.ndarray) -> dict[str, Tensor]:
    gain, shift = colour

    def picture(array: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float() / 127.5 - 1
        x = (x * gain + shift).clamp(-1, 1)
        return x.flip(2) if flip else x

    left, top = (int(v) for v in corner)
    mouth = shard.mouth[i, top : top + MOUTH_SIZE, left : left + MOUTH_SIZE]
    motion, boxes = as_motion(shard.motion[i : i + 1])[0], torch.from_numpy(shard.boxes[i])
    origin = torch.from_numpy(shard.origin + corner).long()
    middle = torch.tensor(float(shard.incisors) - shard.origin[0] - left - MOUTH_SIZE / 2)
    if flip:
        motion = motion.flip(2) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
        boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        origin = torch.stack([PORTRAIT_SIZE - MOUTH_SIZE - origin[0], origin[1]])
        middle = -middle
    return {
        "frame": picture(shard.frames[i]),
        "motion": motion,
        "mouth": picture(mouth),
        "portrait": picture(shard.portrait),
        "origin": origin,
        "boxes": boxes,
        "middle": middle.float(),
    }
