"""The phases of a recipe, one after the other, each a resumable run: the last one in the folder of the stage, the
others in folders of their own below it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emo_live.models.autoencoder import MotionBasis
from emo_live.training.distil.loss import DistilLoss
from emo_live.training.distil.low_rank import NAME as LOW_RANK
from emo_live.training.distil.low_rank import add_low_rank, fold_low_rank
from emo_live.training.distil.matching import Matching
from emo_live.training.distil.recipe import Phase, Recipe
from emo_live.training.distil.student import Batch, Student
from emo_live.training.distil.tiny import TinyStudent
from emo_live.training.motion_data import MotionData
from emo_live.training.roll_out import Sampling, sampler
from emo_live.training.run import Budget, Run, load_weights, optimizers
from emo_live.training.teacher import Teacher, start_from


@dataclass(frozen=True, slots=True)
class Course:
    """network: what learns. batches(phase, first): batches from the first-th on. sample: as Run.train has it, or None.
    teacher: many-step; None: the network as it comes."""

    student: Student
    network: Any
    recipe: Recipe
    batches: Callable[[Phase, int], Iterator[Batch]]
    sample: Callable[[nn.Module, Path], dict[str, float]] | None
    teacher: nn.Module | None = None


def shares(recipe: Recipe, budget: Budget) -> list[tuple[Phase, Budget]]:
    """The phases that get a part of the budget, and which."""
    out, done = [], 0.0
    for phase in recipe.phases:
        steps = None
        if budget.steps is not None:
            steps = round(budget.steps * (done + phase.share)) - round(budget.steps * done)
        done += phase.share
        if phase.share and steps != 0:
            out.append((phase, replace(budget, minutes=budget.minutes * phase.share, steps=steps)))
    return out


def run_phases(course: Course, out: Path, budget: Budget, device: torch.device) -> dict[str, float]:
    """Returns the last losses. `course.network` is the student when it goes."""
    teacher = (course.teacher or copy.deepcopy(course.network)).requires_grad_(False).eval()
    planned, values = shares(course.recipe, budget), {}
    for phase, part in planned:
        last = phase is planned[-1][0]
        folder = out if last else out / phase.name
        torch.manual_seed(budget.seed)
        if phase.low_rank:
            add_low_rank(course.network.denoising_unet, phase.low_rank)
        select(course.network, phase)
        matching = new_matching(course, teacher, phase) if phase.matching else None
        optims, beside = optimizers(course.network, *phase.rates), matching.beside if matching else {}
        run = Run(folder, course.network, optims, part, ema=course.recipe.ema, beside=beside)
        networks = (course.network, teacher, run.ema.module)
        loss = DistilLoss(course.student, networks, course.recipe, phase, device, matching)
        values = run.train(course.batches(phase, run.step), loss, course.sample if last else None)
        load_weights(course.network, folder)
        fold_low_rank(course.network)
    return values


def select(network: nn.Module, phase: Phase) -> None:
    """Freezes what a phase does not train."""
    for name, p in network.named_parameters():
        p.requires_grad_(LOW_RANK in name or any(part in name for part in phase.trained))


def new_matching(course: Course, teacher: nn.Module, phase: Phase) -> Matching:
    fake = copy.deepcopy(course.network)
    return Matching(course.student, teacher, fake, optimizers(fake, *phase.rates), course.recipe)


def train(
    data: tuple[MotionData, MotionData],
    basis: MotionBasis,
    model: Teacher,
    runs: tuple[list[Path], list[Path]],
    out: Path,
    budget: Budget,
    recipe: Recipe,
) -> dict[str, float]:
    """data: to train on and held out. runs: of the teacher, and of what the student begins with, as `start_from` takes
    them."""
    teacher = copy.deepcopy(model)
    start_from(teacher, runs[0])
    device = start_from(model, runs[1])

    def batches(phase: Phase, first: int) -> Iterator[Batch]:
        return data[0].batches(budget.batch, recipe.frames, budget.seed, ahead=phase.windows - 1, first=first)

    sample = sampler(data[1], basis, Sampling(steps=1), count=6)
    course = Course(TinyStudent(model, basis, device), model, recipe, batches, sample, teacher)
    return run_phases(course, out, budget, device)
