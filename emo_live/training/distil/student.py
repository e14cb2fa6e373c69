"""What the recipe has to know of a size. Two sizes know it: tiny.py and latent.py.

`network` is always an argument: the student, its average, its teacher and the fake score are the same class.
x: (B, T, C, h, w) what diffuses; t: (B, T) timesteps; a batch: tensors (B, W, T, ...) of W windows in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from emo_live.models.emo import Portrait
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import NoiseSchedule, guided

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Given:
    """What B windows are generated from, as one network reads it. anchor: (B, T, C, h, w) for sizes that have one."""

    portrait: Portrait
    motion: Bank | None  # None: the size has no motion frames
    tokens: Tensor
    anchor: Tensor | None = None
    speed: Tensor | None = None

    def rows(self, chosen: Tensor) -> Given:
        """Some of the windows. chosen: (B',) indices."""

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[chosen]

        motion = None if self.motion is None else {name: value[chosen] for name, value in self.motion.items()}
        portrait = changed(self.portrait, lambda x: x[chosen])
        return Given(portrait, motion, self.tokens[chosen], pick(self.anchor), pick(self.speed))


def changed(portrait: Portrait, change: Callable[[Tensor], Tensor]) -> Portrait:
    """Every tensor of a portrait through `change`, which may add or drop rows."""
    masks = tuple((change(a), change(b), change(c)) for a, b, c in portrait.masks)
    features = {name: change(value) for name, value in portrait.bank.items()}
    tokens = None if portrait.tokens is None else change(portrait.tokens)
    return replace(
        portrait,
        code=change(portrait.code),
        bank=features,
        locator=change(portrait.locator),
        masks=masks,
        tokens=tokens,
    )


class Student(Protocol):
    schedule: NoiseSchedule

    def window(self, batch: Batch, i: int) -> Batch:
        """The i-th windows, (B, T, ...), with what the methods below need of them."""

    def reads(self, network: Any, window: Batch, past: Tensor) -> Given:
        """window: as `window` gives it; past: (B, n, C, h, w) latents of the motion frames."""

    def deaf(self, network: Any, given: Given) -> Given:
        """What guidance leads away from."""

    def velocity(self, network: Any, x: Tensor, t: Tensor, given: Given) -> Tensor:
        """The v-prediction, float32."""

    def noise(self, frames: int, like: Tensor) -> Tensor:
        """(B, frames, C, h, w) of one run of frames each; like: (B, ..., C, h, w)."""

    def target(self, window: Batch) -> Tensor:
        """The true x."""

    def latents(self, x: Tensor, window: Batch) -> Tensor:
        """Of x: what motion frames are made of."""

    def past(self, window: Batch) -> Tensor:
        """The true motion frames."""

    def weight(self, window: Batch) -> Tensor:
        """Of errors of x, mean 1, as it multiplies (B, T, C, h, w)."""

    def distance(self, made: Tensor, true: Tensor, window: Batch) -> Tensor:
        """(B,) how far off x is, lips above all."""

    def aside(self, network: Any, given: Given, window: Batch) -> dict[str, Tensor]:
        """Losses of a size's own; they are added up."""


def guided_velocity(student: Student, network: Any, x: Tensor, t: Tensor, given: Given, guidance: float) -> Tensor:
    v = student.velocity(network, x, t, given)
    if guidance == 1:
        return v
    return guided(student.velocity(network, x, t, student.deaf(network, given)), v, guidance)


def flat_step(schedule: NoiseSchedule, x: Tensor, v: Tensor, t: Tensor, to: Tensor) -> Tensor:
    """DDIM from timesteps t to `to`, (B, T) each, on (B, T, C, h, w)."""
    return schedule.ddim_step(x.flatten(0, 1), v.flatten(0, 1), t.flatten(), to.flatten()).view_as(x)


def sample(student: Student, network: Any, noise: Tensor, given: Given, steps: int, stop: int | None = None) -> Tensor:
    """The student's own sampler, from noise: x after all `steps`, or before step `stop`."""
    x, times = noise, student.schedule.trailing(steps)
    for now, to in list(zip(times, [*times[1:], -1], strict=True))[:stop]:
        t = torch.full(x.shape[:2], now, device=x.device)
        x = flat_step(student.schedule, x, student.velocity(network, x, t, given), t, torch.full_like(t, to))
    return x
