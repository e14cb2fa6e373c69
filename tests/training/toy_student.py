"""Small worlds for the recipe, in which everything is known: x is (B, T, C, 1, 1), a sample of a mixture of Gaussians.

A world's teacher is exact: the posterior mean of a mixture in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.models.layers import timestep_embedding
from emo_live.models.sampler import NoiseSchedule
from emo_live.training.distil.loss import DistilLoss
from emo_live.training.distil.matching import Matching
from emo_live.training.distil.recipe import EVERYTHING, Phase, Recipe
from emo_live.training.distil.student import Batch
from emo_live.training.run import Ema

SCHEDULE = NoiseSchedule(TINY.emo.schedule)
CPU = torch.device("cpu")
RECIPE = Recipe(
    segments=4,
    stride=25,
    sub_steps=1,
    guidance=1.0,
    huber=0.1,
    ema=0.95,
    steps=(4,),
    frames=(8,),
    batch=256,
    fake_updates=5,
    phases=(),
)
PHASE = Phase(
    name="toy",
    share=1.0,
    trained=EVERYTHING,
    low_rank=0,
    rates=(None, 3e-3),
    windows=1,
    own=0.0,
    taught=1.0,
    own_times=0.0,
    consistency=1.0,
    truth=0.0,
    matching=0.0,
)


@dataclass(frozen=True)
class ToyGiven:
    sound: Tensor  # (B, T, D)
    past: Tensor  # (B, n, C, 1, 1)

    def rows(self, chosen: Tensor) -> ToyGiven:
        return ToyGiven(self.sound[chosen], self.past[chosen])


class ToyStudent:
    """Batches have z (B, W, T, C, 1, 1), motion (B, W, n, C, 1, 1) and sound (B, W, T, D). Deaf is a sound of zeros."""

    schedule = SCHEDULE

    def window(self, batch: Batch, i: int) -> Batch:
        return {name: value[:, i] for name, value in batch.items()}

    def reads(self, network: Any, window: Batch, past: Tensor) -> Any:
        return ToyGiven(window["sound"], past)

    def deaf(self, network: Any, given: Any) -> Any:
        return replace(given, sound=torch.zeros_like(given.sound))

    def velocity(self, network: Any, x: Tensor, t: Tensor, given: Any) -> Tensor:
        out: Tensor = network(x, t, given)
        return out

    def noise(self, frames: int, like: Tensor) -> Tensor:
        return torch.randn(len(like), frames, *like.shape[-3:])

    def target(self, window: Batch) -> Tensor:
        return window["z"]

    def latents(self, x: Tensor, window: Batch) -> Tensor:
        return x

    def past(self, window: Batch) -> Tensor:
        return window["motion"]

    def weight(self, window: Batch) -> Tensor:
        return torch.ones(())

    def distance(self, made: Tensor, true: Tensor, window: Batch) -> Tensor:
        return (made - true).square().mean((1, 2, 3, 4))

    def aside(self, network: Any, given: Any, window: Batch) -> dict[str, Tensor]:
        return {}


def scales(t: Tensor) -> tuple[Tensor, Tensor]:
    a, s = SCHEDULE.coefficients(t.flatten())
    return a.view(*t.shape, 1, 1, 1), s.view(*t.shape, 1, 1, 1)


class Mixture(nn.Module):
    """The exact velocity. means: what is given -> (B, K, T, C) of equally likely components, all as wide as `spread`
    (C,)."""

    def __init__(self, means: Callable[[ToyGiven], Tensor], spread: Tensor):
        super().__init__()
        self.means, self.spread = means, spread[:, None, None]

    def forward(self, x: Tensor, t: Tensor, given: ToyGiven) -> Tensor:
        a, s = scales(t)
        means = self.means(given)[..., None, None]  # (B, K, T, C, 1, 1)
        apart = (x[:, None] - a[:, None] * means).square() / (a.square() * self.spread**2 + s.square())[:, None]
        share = (-apart.sum((2, 3, 4, 5)) / 2).softmax(1)[:, :, None, None, None, None]
        gain = (a * self.spread**2 / (a.square() * self.spread**2 + s.square()))[:, None]
        clean = (share * (means + gain * (x[:, None] - a[:, None] * means))).sum(1)
        return (a * x - clean) / s


class Net(nn.Module):
    """A small student: a perceptron on the whole window, its sound and its frames' timesteps."""

    def __init__(self, frames: int, channels: int, sound: int, width: int = 96):
        super().__init__()
        self.first = nn.Linear(frames * (channels + sound), width)
        self.time = nn.Linear(32 * frames, 4 * width)
        self.inner = nn.Linear(width, width)
        self.last = nn.Linear(width, frames * channels)

    def forward(self, x: Tensor, t: Tensor, given: ToyGiven) -> Tensor:
        gain1, shift1, gain2, shift2 = self.time(timestep_embedding(t.flatten(), 32).view(len(x), -1)).chunk(4, 1)
        h = self.first(torch.cat([x.flatten(1), given.sound.flatten(1)], 1))
        h = F.silu(h * (1 + gain1) + shift1)
        h = h + F.silu(self.inner(h) * (1 + gain2) + shift2)
        out: Tensor = self.last(h).view_as(x)
        return out


def given_of(batch: Batch) -> ToyGiven:
    return ToyGiven(batch["sound"][:, -1], batch["motion"][:, -1])


def distil(
    network: nn.Module, teacher: nn.Module, batches: Iterator[Batch], steps: int, recipe: Recipe, phase: Phase
) -> nn.Module:
    """Trains `network`; returns its average."""
    student = ToyStudent()
    average = Ema(network, recipe.ema)
    optim = torch.optim.AdamW(network.parameters(), phase.rates[1], betas=(0.9, 0.98), weight_decay=0)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optim, steps)
    matching = None
    if phase.matching:
        import copy

        fake = copy.deepcopy(network)
        own = [torch.optim.AdamW(fake.parameters(), phase.rates[1], betas=(0.9, 0.98), weight_decay=0)]
        matching = Matching(student, teacher, fake, list(own), recipe)
    loss = DistilLoss(student, (network, teacher, average.module), recipe, phase, CPU, matching)
    for _ in range(steps):
        loss(next(batches))["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optim.step()
        optim.zero_grad()
        rate.step()
        average.update(network)
    return average.module


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Of two sets (N, D): 0 for equal ones."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())
