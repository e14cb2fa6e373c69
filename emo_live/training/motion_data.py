"""Windows of motion latents with the sound features, head velocities and portraits that they are generated from.

Joins tracks (shards.py) with sound features (sound.py) and mirrors half of what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.audio.features import TOKENS_PER_STEP
from emo_live.config import LIDS, TINY
from emo_live.engine.locator_mask import locator_mask
from emo_live.errors import BadInputError
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.hearing import UNHEARD
from emo_live.training.basis import mirror_signs
from emo_live.training.sound import AHEAD, BEFORE, STRIDE
from emo_live.types import FPS

VELOCITY_SPAN = 25  # frames over which the head's speed is averaged
FIRST_SHARE = 0.04  # of the windows start from the portrait itself
BLINK_SHARE = 0.25  # of the windows have closing lids in them, if the track has any: blinks are rare and must close
CLOSING = 0.5  # of a lid


@dataclass(frozen=True, slots=True)
class Track:
    """z: (T, C, h, w) float16; features: (V, T / STRIDE + 1, KEPT, D) float16, mapped; velocity: (T,) degrees a second;
    pose: (T, 6); arkit: (T, 52); silent: (T,) bool; portrait: index of who plays it."""

    name: str
    z: np.ndarray
    features: np.ndarray
    velocity: np.ndarray
    pose: np.ndarray
    arkit: np.ndarray
    silent: np.ndarray
    portrait: int


def gestures_of(arkit: Tensor, pose: Tensor) -> Tensor:
    """ARKit weights (..., 52) and pose (..., 6) -> (..., GESTURES), as models/gestures.py draws them."""
    return torch.cat([arkit[..., UNHEARD], pose], -1)


def mirrored_pose(pose: Tensor) -> Tensor:
    """(..., 6) of a mirrored head: yaw, roll and x change their signs."""
    return pose * pose.new_tensor([-1, 1, -1, -1, 1, 1])


def head_velocity(pose: np.ndarray) -> np.ndarray:
    """(T, 6) yaw, pitch, roll in radians first -> (T,) degrees a second, averaged over about a second."""
    step = np.linalg.norm(np.diff(pose[:, :3], axis=0, prepend=pose[:1, :3]), axis=1) * 180 / np.pi * FPS
    kernel = np.ones(VELOCITY_SPAN) / VELOCITY_SPAN
    padded = np.pad(step, VELOCITY_SPAN // 2, mode="edge")
    return np.convolve(padded, kernel, "valid").astype(np.float32)


def mirrored_columns(arkit_names: tuple[str, ...]) -> np.ndarray:
    """(52,) column that takes each weight's place in a mirrored face."""
    swap = {"Left": "Right", "Right": "Left"}
    other = [next((n.removesuffix(s) + swap[s] for s in swap if n.endswith(s)), n) for n in arkit_names]
    return np.array([arkit_names.index(name) for name in other])


class MotionData:
    """All tracks of the given portraits, latents in memory, sound mapped from its files."""

    def __init__(self, work: Path, portraits: list[str], basis: MotionBasis, arkit_names: tuple[str, ...]):
        self.tracks: list[Track] = []
        self.pictures: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []
        self.outlines: list[np.ndarray] = []
        self.signs = mirror_signs(basis)[:, None, None]
        self.mirrored = torch.from_numpy(mirrored_columns(arkit_names))
        for name in portraits:
            path = work / "tracks" / f"{name}.npz"
            if path.exists():
                with np.load(path) as file:
                    self._take(file, work / "sound")
        if not self.tracks:
            raise BadInputError(f"no tracks in {work / 'tracks'}: draw them with `emo-live train tracks`")

    def _take(self, file: np.lib.npyio.NpzFile, sound: Path) -> None:
        self.pictures.append(file["portrait"])
        self.outlines.append(file["outline"].astype(np.float32))
        self.masks.append(locator_mask(file["outline"], TINY.mask_size))
        for k, name in enumerate(str(n) for n in file["names"]):
            features = sound / f"{name}.npy"
            if not features.exists():
                continue
            pose = file[f"pose{k}"]
            heard, portrait = np.load(features, mmap_mode="r"), len(self.pictures) - 1
            rest = (head_velocity(pose), pose, file[f"arkit{k}"], file[f"silent{k}"], portrait)
            self.tracks.append(Track(name, file[f"z{k}"], heard, *rest))

    def portrait(self, index: int) -> dict[str, Tensor]:
        """portrait (3, 256, 256) in [-1, 1], mask (4, 128, 128), outline (478, 2)."""
        picture = torch.from_numpy(np.ascontiguousarray(self.pictures[index])).permute(2, 0, 1).float() / 127.5 - 1
        outline = torch.from_numpy(self.outlines[index])
        return {"portrait": picture, "mask": torch.from_numpy(self.masks[index]), "outline": outline}

    def window(self, track: Track, start: int, frames: int, variant: int) -> dict[str, Tensor]:
        """Frames start .. start + frames of a track and what they are generated from."""
        n = TINY.emo.motion_frames
        used = (frames + BEFORE + AHEAD) * TOKENS_PER_STEP
        features = track.features[variant, (start + frames) // STRIDE, -used:]
        around = np.clip(np.arange(start - BEFORE, start + frames + BEFORE), 0, len(track.velocity) - 1)
        before = track.z[start - n : start] if start >= n else np.zeros((n, *track.z.shape[1:]), np.float16)
        return {
            "z": torch.from_numpy(track.z[start : start + frames].astype(np.float32)),
            "motion": torch.from_numpy(before.astype(np.float32)),
            "features": torch.from_numpy(features.astype(np.float32)),
            "velocity": torch.from_numpy(track.velocity[around]),
            "arkit": torch.from_numpy(track.arkit[start : start + frames]),
            "silent": torch.from_numpy(track.silent[start : start + frames]),
            "gestures": self.gestures(track)[start : start + frames],
            "mirrored": torch.tensor(False),
            **self.portrait(track.portrait),
        }

    @staticmethod
    def gestures(track: Track) -> Tensor:
        """(T, GESTURES)"""
        return gestures_of(torch.from_numpy(track.arkit), torch.from_numpy(track.pose))

    def mirror(self, row: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is seen, mirrored. Outline and gestures stay: the anchor that they make is mirrored as a whole."""
        return {
            **row,
            "z": row["z"].flip(-1) * self.signs,
            "motion": row["motion"].flip(-1) * self.signs,
            "arkit": row["arkit"][:, self.mirrored],
            "portrait": row["portrait"].flip(-1),
            "mask": row["mask"].flip(-1),
            "mirrored": ~row["mirrored"],
        }

    @staticmethod
    def _start(track: Track, last: int, before: int, random: np.random.Generator) -> int:
        """Where a window may start, 1 to `last`, `before` frames before those that it is about."""
        blinks = np.flatnonzero(track.arkit[:, LIDS].mean(1) > CLOSING)
        if len(blinks) and random.random() < BLINK_SHARE:
            start = int(random.choice(blinks)) - before - int(random.integers(4))
        else:
            start = int(random.integers(last + STRIDE))
        return int(np.clip(start // STRIDE, 1, last // STRIDE)) * STRIDE

    def batches(
        self, size: int, lengths: tuple[int, ...], seed: int, ahead: int = 0, first: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """Random windows, (size, 1 + ahead, ...): `ahead` more follow each one, for training on own output. The k-th
        batch depends on k and the seed alone; first: the k to begin with."""
        weights = np.array([len(track.z) for track in self.tracks], float)
        for k in count(first):
            random = np.random.default_rng([seed, k])
            frames = int(random.choice(lengths))
            rows = []
            for chosen in random.choice(len(self.tracks), size, p=weights / weights.sum()):
                track = self.tracks[chosen]
                last = len(track.z) - frames * (ahead + 1)
                start = 0 if random.random() < FIRST_SHARE else self._start(track, last, frames * ahead, random)
                variant, mirror = int(random.integers(len(track.features))), random.random() < 0.5
                gain, shift = random.uniform(0.75, 1.25), random.uniform(-0.12, 0.12)
                for j in range(ahead + 1):
                    row = self.window(track, start + j * frames, frames, variant)
                    row["portrait"] = (row["portrait"] * gain + shift).clamp(-1, 1)
                    rows.append(self.mirror(row) if mirror else row)
            stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            yield {name: value.unflatten(0, (size, ahead + 1)) for name, value in stacked.items()}
