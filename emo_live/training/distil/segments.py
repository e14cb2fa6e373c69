"""Segment consistency: the way from noise to the clean end is cut, and each part is learnt to be crossed in one step.

From a point at t the teacher goes a little further, with guidance; where the student's average gets to from there is
where the student must get to from t. Sources: consistency distillation (arXiv 2303.01469), in segments (2404.13686,
2405.18407), guidance absorbed (2310.04378), pseudo-Huber distance (2310.14189).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emo_live.models.sampler import NoiseSchedule
from emo_live.training.distil.recipe import Recipe
from emo_live.training.distil.student import Given, Student, flat_step, guided_velocity


def ends(schedule: NoiseSchedule, segments: int, t: Tensor) -> Tensor:
    """Timesteps -> where the segment that each lies in ends; -1 is the clean end."""
    starts = torch.tensor([*schedule.trailing(segments), -1], device=t.device)
    lower = torch.where(starts < t[..., None], starts, torch.full_like(starts, -1))
    return lower.max(-1).values


def draw_times(schedule: NoiseSchedule, recipe: Recipe, size: int, frames: int, own: float) -> Tensor:
    """(B, T) timesteps from which the teacher's steps lead to the ends of segments. own: share of rows whose frames
    have one each."""
    starts = schedule.trailing(recipe.segments)
    grid = torch.tensor(
        [t for a, b in zip(starts, [*starts[1:], -1], strict=True) for t in range(a, b, -recipe.stride)]
    )
    shared = torch.randint(len(grid), (size, 1)).expand(size, frames)
    each = torch.randint(len(grid), (size, frames))
    return grid[torch.where(torch.rand(size, 1) < own, each, shared)]


@torch.no_grad()
def taught_velocity(
    student: Student, teacher: tuple[Any, Given], average: tuple[Any, Given], x: Tensor, t: Tensor, recipe: Recipe
) -> Tensor:
    """The velocity at x that one step to the end of the segment must have. teacher, average: networks and what they
    read."""
    schedule = student.schedule
    end = ends(schedule, recipe.segments, t)
    y, at = x, t
    for _ in range(recipe.sub_steps):
        v = guided_velocity(student, teacher[0], y, at.clamp(min=0), teacher[1], recipe.guidance)
        to = torch.maximum(at - recipe.stride, end)
        y, at = flat_step(schedule, y, v, at, to), to
    v = student.velocity(average[0], y, at.clamp(min=0), average[1])
    y = flat_step(schedule, y, v, at, end)  # from the end of a segment to itself: nothing changes
    return leading_velocity(schedule, x, y, t, end)


def leading_velocity(schedule: NoiseSchedule, x: Tensor, y: Tensor, t: Tensor, end: Tensor) -> Tensor:
    """The v whose DDIM step leads from x at t to y at `end`: with signal and noise as cosine and sine of an angle, a
    step turns by the difference of angles d, y = cos(d) x - sin(d) v."""
    shape = (*t.shape, 1, 1, 1)
    (a, s), (b, r) = (tuple(c.view(shape) for c in schedule.coefficients(z.flatten())) for z in (t, end))
    return ((a * b + s * r) * x - y) / (s * b - a * r)


def segment_error(
    schedule: NoiseSchedule, v: Tensor, wanted: Tensor, t: Tensor, weight: Tensor, huber: float
) -> Tensor:
    """() pseudo-Huber distances of frames, of velocities and of the clean x that they stand for."""
    spread = schedule.coefficients(t.flatten())[1].view(*t.shape, 1, 1, 1)
    error = (v - wanted).square() * weight
    both = torch.stack([error, error * spread.square()]).mean((-3, -2, -1))
    return ((both + huber**2).sqrt() - huber).sum(0).mean()
