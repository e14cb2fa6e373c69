"""Distribution matching: what the student makes moves to where the teacher finds it likelier than its own score does.

The fake score is a diffusion model of what the student makes at the moment; it learns several times for each step of
the student. Sources: arXiv 2311.18828 and 2405.14867 (two time scales, no regression on pairs).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emo_live.training.distil.recipe import Recipe
from emo_live.training.distil.student import Batch, Given, Student, guided_velocity
from emo_live.training.run import Stateful

FROM, TO = 0.02, 0.98  # of the noise levels: at the ends there is nothing to tell apart


class Matching:
    """fake: a copy of the student to begin with; optims: of its weights."""

    def __init__(
        self, student: Student, teacher: Any, fake: nn.Module, optims: list[torch.optim.Optimizer], recipe: Recipe
    ):
        self.student, self.teacher, self.fake, self.optims, self.recipe = student, teacher, fake, optims, recipe

    @property
    def beside(self) -> dict[str, Stateful]:
        """What a run must save to go on."""
        return {"fake": self.fake, **{f"fake_optim{i}": optim for i, optim in enumerate(self.optims)}}

    def __call__(self, made: Tensor, window: Batch, past: Tensor) -> Tensor:
        """made: (B, T, C, h, w) with its gradient; window, past: what it was generated from. () loss."""
        still = made.detach()
        for _ in range(self.recipe.fake_updates):
            self._teach_fake(still, window, past)
        with torch.no_grad():
            x, t, _ = self._noised(still)
            teacher, fake = (self.student.reads(network, window, past) for network in (self.teacher, self.fake))
            real = self._clean(x, t, guided_velocity(self.student, self.teacher, x, t, teacher, self.recipe.guidance))
            own = self._clean(x, t, self.student.velocity(self.fake, x, t, fake))
            size = (still - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-4)
            wanted = still - (own - real) / size
        return ((made - wanted).square() * self.student.weight(window)).mean() / 2

    def _teach_fake(self, made: Tensor, window: Batch, past: Tensor) -> None:
        x, t, noise = self._noised(made)
        given: Given = self.student.reads(self.fake, window, past)
        v = self.student.velocity(self.fake, x, t, given)
        wanted = self.student.schedule.velocity(made.flatten(0, 1), noise.flatten(0, 1), t.flatten()).view_as(made)
        ((v - wanted).square() * self.student.weight(window)).mean().backward()
        nn.utils.clip_grad_norm_(self.fake.parameters(), 1.0)
        for optim in self.optims:
            optim.step()
            optim.zero_grad(set_to_none=True)

    def _noised(self, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, its timesteps (B, T), one a window, and the noise in it."""
        schedule = self.student.schedule
        low, high = (round(share * schedule.train_steps) for share in (FROM, TO))
        t = torch.randint(low, high, (len(made), 1), device=made.device).expand(made.shape[:2])
        noise = self.student.noise(made.shape[1], made)
        return schedule.add_noise(made.flatten(0, 1), noise.flatten(0, 1), t.flatten()).view_as(made), t, noise

    def _clean(self, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
        return self.student.schedule.clean_from_velocity(x.flatten(0, 1), v.flatten(0, 1), t.flatten()).view_as(x)
