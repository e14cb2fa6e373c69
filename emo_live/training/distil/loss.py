"""One step of a phase: windows roll on, the last one is trained, in one pass of the network for all its rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emo_live.training.distil.matching import Matching
from emo_live.training.distil.recipe import Phase, Recipe
from emo_live.training.distil.segments import draw_times, segment_error, taught_velocity
from emo_live.training.distil.student import Batch, Given, Student, sample
from emo_live.training.run import autocast


def spread_rows(size: int, share: float) -> Tensor:
    """(size,) bool: a share of the rows, evenly among them; what is no whole row is left to chance."""
    rows = torch.arange(size + 1) * share + torch.rand(())
    return rows[1:].floor() > rows[:-1].floor()


class DistilLoss:
    """batch: windows in a row per row; the last one is trained, from the true or the own end of the one before.

    networks: the one that learns; its teacher; the average of the one that learns, which is the target of consistency.
    """

    def __init__(
        self,
        student: Student,
        networks: tuple[Any, Any, Any],
        recipe: Recipe,
        phase: Phase,
        device: torch.device,
        matching: Matching | None = None,
    ):
        self.student, self.recipe, self.phase, self.device = student, recipe, phase, device
        self.network, self.teacher, self.average = networks
        self.matching = matching

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        student, phase = self.student, self.phase
        batch = {name: value.to(self.device) for name, value in batch.items()}
        windows = [student.window(batch, i) for i in range(phase.windows)]
        now, true = windows[-1], student.target(windows[-1])
        size, frames = true.shape[:2]
        noise = student.noise(phase.windows * frames, true)
        taught = spread_rows(size, phase.taught).to(self.device)
        with autocast(self.device):
            past = self._roll_out(windows, noise)
            given = student.reads(self.network, now, past)
            x, t = self._state(true, noise[:, -frames:], taught, given)
            v = student.velocity(self.network, x, t, given)
            terms = student.aside(self.network, given, now)
            if taught.any():
                terms["segments"] = phase.consistency * self._miss_of_teacher(x, t, v, now, past, taught)
            if not taught.all():
                made = self._clean(x, t, v)[~taught]
                shown = {name: value[~taught] for name, value in now.items()}
                terms["miss"] = phase.truth * student.distance(made, true[~taught], shown).mean()
                if self.matching is not None:
                    terms["matching"] = phase.matching * self.matching(made, shown, past[~taught])
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    @torch.no_grad()
    def _roll_out(self, windows: list[Batch], noise: Tensor) -> Tensor:
        """Motion frames of the last window: the true ones, and for some rows the end of what the student makes of the
        windows before. noise: of all windows."""
        student = self.student
        true = student.past(windows[-1])
        own = round(len(true) * self.phase.own)  # rows are in no order, so the first ones will do
        if not own or not true.shape[1]:  # sizes without motion frames continue nothing
            return true
        before = [{name: value[:own] for name, value in window.items()} for window in windows[:-1]]
        past, frames = student.past(before[0]), noise.shape[1] // len(windows)
        for i, window in enumerate(before):
            given = student.reads(self.network, window, past)
            part = noise[:own, i * frames : (i + 1) * frames]
            made = student.latents(sample(student, self.network, part, given, min(self.recipe.steps)), window)
            past = torch.cat([past, made], 1)[:, -past.shape[1] :]
        return torch.cat([past, true[own:]])

    @torch.no_grad()
    def _state(self, true: Tensor, noise: Tensor, taught: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """(B, T, C, h, w) and (B, T): where rows that are taught are with their noise level, and where the others'
        sampler is before its last step."""
        student, recipe = self.student, self.recipe
        size, frames = true.shape[:2]
        t = draw_times(student.schedule, recipe, size, frames, self.phase.own_times).to(self.device)
        noisy = student.schedule.add_noise(true.flatten(0, 1), noise.flatten(0, 1), t.flatten()).view_as(true)
        steps = recipe.steps[int(torch.randint(len(recipe.steps), ()))]
        t[~taught] = student.schedule.trailing(steps)[-1]
        if steps == 1:
            noisy[~taught] = noise[~taught]
        elif not taught.all():
            rows = torch.nonzero(~taught)[:, 0]
            noisy[rows] = sample(student, self.network, noise[rows], given.rows(rows), steps, stop=steps - 1)
        return noisy, t

    def _clean(self, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
        return self.student.schedule.clean_from_velocity(x.flatten(0, 1), v.flatten(0, 1), t.flatten()).view_as(x)

    def _miss_of_teacher(self, x: Tensor, t: Tensor, v: Tensor, window: Batch, past: Tensor, rows: Tensor) -> Tensor:
        student, recipe = self.student, self.recipe
        window, x, t = {name: value[rows] for name, value in window.items()}, x[rows], t[rows]
        with torch.no_grad():
            teacher, average = (
                (network, student.reads(network, window, past[rows])) for network in (self.teacher, self.average)
            )
            wanted = taught_velocity(student, teacher, average, x, t, recipe)
        return segment_error(student.schedule, v[rows], wanted, t, student.weight(window), recipe.huber)
