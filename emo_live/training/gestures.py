"""Trains models/gestures.py on the tracks' head poses, brows and lids, by the energy score (Gneiting and Raftery 2007).

The score of a few draws against the true stretch is taken over poses, lids and the rest apart, over parts of several
lengths and over velocities and accelerations: short parts teach how a lid closes, long ones how heads drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.config import LIDS, POSE, TINY
from emo_live.models.gestures import GESTURES, Gestures
from emo_live.training.motion_data import MotionData, gestures_of, mirrored_pose
from emo_live.training.run import Budget, Run, optimizers
from emo_live.types import FPS

DRAWS = 4
SPAN = 48  # frames of a stretch
LENGTHS = (1, 6, 16, 48)  # frames of the parts that are scored
_UPPER = list(range(GESTURES - POSE))
# What is scored together: the pose, the lids, the rest of the upper face.
GROUPS = (list(range(len(_UPPER), GESTURES)), _UPPER[LIDS], [i for i in _UPPER if i not in _UPPER[LIDS]])
CALMEST = 0.25  # share of a head's motion that is left
CLOSED = 0.5  # of a lid, from where on it counts as a blink


def stretches(data: MotionData, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """gestures (size, SPAN, GESTURES), speed (size,): random parts of the tracks, half of them mirrored, some heads
    calmed, because most talkers of the data are lively."""
    random = np.random.default_rng(seed)
    tracks = [track for track in data.tracks if len(track.z) >= SPAN]
    weights = np.array([len(track.z) for track in tracks], float)
    while True:
        rows, speeds = [], []
        for k in random.choice(len(tracks), size, p=weights / weights.sum()):
            track, start = tracks[k], int(random.integers(len(tracks[k].z) - SPAN + 1))
            part = slice(start, start + SPAN)
            arkit, pose = torch.from_numpy(track.arkit[part]), torch.from_numpy(track.pose[part])
            if random.random() < 0.5:
                arkit, pose = arkit[:, data.mirrored], mirrored_pose(pose)
            calm = float(random.uniform(CALMEST, 1))
            rows.append(gestures_of(arkit, pose * calm))
            speeds.append(float(track.velocity[part].mean()) * calm)
        yield {"gestures": torch.stack(rows), "speed": torch.tensor(speeds)}


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, T, GESTURES) twice -> (B,) distances, summed over groups, lengths, places, velocities and accelerations."""
    total = a.new_zeros(len(a))
    for apart in (a - b, 2 * (a - b).diff(dim=1), 4 * (a - b).diff(n=2, dim=1)):
        for group in GROUPS:
            energy = apart[:, :, group].square().mean(2)
            for length in LENGTHS:
                parts = energy.unfold(1, min(length, energy.shape[1]), max(1, length // 2)).mean(2)
                total = total + (parts + 1e-6).sqrt().mean(1)
    return total


class GestureLoss:
    def __init__(self, model: Gestures):
        self.model = model

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        size = len(batch["speed"])
        noise = torch.randn(DRAWS * size, TINY.gestures.reach + SPAN, TINY.gestures.noise)
        drawn = (self.model(noise, batch["speed"].repeat(DRAWS)) - self.model.mean) / self.model.spread
        true = (batch["gestures"] - self.model.mean) / self.model.spread
        draws = drawn.unflatten(0, (DRAWS, size))
        miss = torch.stack([distances(draw, true) for draw in draws]).mean()
        pairs = [(i, j) for i in range(DRAWS) for j in range(i)]
        spread = torch.stack([distances(draws[i], draws[j]) for i, j in pairs]).mean()
        return {"loss": miss - spread / 2, "miss": miss, "spread": spread}


@torch.no_grad()
def liveliness(model: Gestures, speed: float, seconds: float = 120, seed: int = 0) -> dict[str, float]:
    """What a long draw looks like: blinks a minute, degrees that the head is away from its middle, its speed."""
    frames = TINY.gestures.reach + round(seconds * FPS)
    noise = torch.randn(1, frames, TINY.gestures.noise, generator=torch.Generator().manual_seed(seed))
    return figures(model(noise, torch.tensor([speed]))[0].numpy())


def figures(gestures: np.ndarray) -> dict[str, float]:
    """(T, GESTURES) -> its figures."""
    lids, angles = gestures[:, LIDS].mean(1), np.rad2deg(gestures[:, -POSE : -POSE + 3])
    blinks = int(((lids[1:] > CLOSED) & (lids[:-1] <= CLOSED)).sum())
    moved = np.linalg.norm(np.diff(angles, axis=0), axis=1) * FPS
    return {
        "blinks_per_min": blinks / len(gestures) * FPS * 60,
        "deepest_lids": float(np.quantile(lids, 0.99)),
        "head_deg": float(np.sqrt(np.square(angles - angles.mean(0)).sum(1).mean())),
        "head_speed": float(moved.mean()),
        "jerk": float(np.linalg.norm(np.diff(angles, n=2, axis=0), axis=1).mean()),
    }


def train(data: MotionData, out: Path, budget: Budget) -> dict[str, float]:
    torch.manual_seed(budget.seed)
    model = Gestures(TINY.gestures)
    every = np.concatenate([data.gestures(track) for track in data.tracks])
    model.mean.copy_(torch.from_numpy(every.mean(0)))
    model.spread.copy_(torch.from_numpy(np.maximum(every.std(0), 1e-3)))  # some weights are always 0
    run = Run(out, model, optimizers(model, 1e-2, 2e-3), budget, ema=0.995)

    def sample(ema: torch.nn.Module, path: Path) -> dict[str, float]:
        assert isinstance(ema, Gestures)
        return liveliness(ema, 4.0)

    batches = stretches(data, budget.batch, budget.seed + run.step)
    return run.train(batches, GestureLoss(model), sample, sample_every_s=60)
