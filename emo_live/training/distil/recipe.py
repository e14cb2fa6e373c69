"""What a distillation does, for how long, and to which weights. One recipe; sizes differ in these numbers only.

A phase is a share of the budget in which the terms of the loss have certain weights. Rows of a batch that are `taught`
learn from the teacher at every noise level; the others are `shown` the truth behind the student's own sampling steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EVERYTHING = ("",)


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    share: float  # of the budget; 0: left out
    trained: tuple[str, ...]  # parts of the names of weights that are trained
    low_rank: int  # rank by which spatial attention may change as well; 0: it may not
    rates: tuple[float | None, float]  # of Muon and AdamW; None: AdamW does it all
    windows: int  # in a row; the last one is trained, the others are what it may continue
    own: float  # share of rows that continue the student's own output, not the truth
    taught: float  # share of rows that learn from the teacher
    own_times: float  # share of the taught rows whose frames have a noise level each
    consistency: float  # weight of segment consistency, on the taught rows
    truth: float  # weight of the distance to the truth, on the shown rows
    matching: float  # weight of distribution matching, on the shown rows


@dataclass(frozen=True, slots=True)
class Recipe:
    segments: int  # of the way from noise to the clean end; the student learns to cross each in one step
    stride: int  # timesteps of one DDIM step of the teacher
    sub_steps: int  # of the teacher for one target
    guidance: float  # of the teacher, which the student absorbs; 1: none
    huber: float  # size of an error from which on it counts by its size, not by its square
    ema: float  # decay of the average that is the target, and that is shipped
    steps: tuple[int, ...]  # of the samplers whose last steps are shown the truth, as often as they are named
    frames: tuple[int, ...]  # lengths of windows, as often as they are named
    batch: int
    fake_updates: int  # of the fake score for each one of the student, while distributions are matched
    phases: tuple[Phase, ...]


TEMPORAL = ("motion_modules",)
HEARD_AND_TEMPORAL = ("audio_modules", "motion_modules", "audioproj")

# Lips must not vary by themselves (docs/LOG.md), so the truth, whose mean is the likeliest deviation, leads throughout.
TINY_RECIPE = Recipe(
    segments=2,
    stride=25,
    sub_steps=1,
    guidance=1.0,
    huber=0.05,
    ema=0.995,
    steps=(1, 1, 1, 2),
    frames=(8, 8, 8, 4, 4, 2),  # of files, of live sessions, of a first frame
    batch=8,
    fake_updates=5,
    phases=(
        Phase("segments", 0.15, EVERYTHING, 0, (3e-3, 6e-4), 2, 0.0, 0.5, 0.0, 3.0, 1.0, 0.0),
        Phase("rollout", 0.85, EVERYTHING, 0, (3e-3, 6e-4), 2, 0.5, 0.25, 0.3, 1.0, 1.0, 0.0),
        Phase("matching", 0.0, EVERYTHING, 0, (3e-4, 1e-4), 2, 0.5, 0.25, 0.3, 1.0, 1.0, 0.5),
    ),
)
HALLO_RECIPE = Recipe(
    segments=4,
    stride=25,
    sub_steps=1,
    guidance=3.5,
    huber=0.03,
    ema=0.99,
    steps=(4,),
    frames=(16, 16, 8),
    batch=2,
    fake_updates=5,
    phases=(
        Phase("segments", 0.6, HEARD_AND_TEMPORAL, 64, (None, 1e-5), 1, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
        Phase("rollout", 0.4, TEMPORAL, 0, (None, 1e-5), 3, 1.0, 0.5, 0.3, 1.0, 0.5, 0.0),
        Phase("matching", 0.0, TEMPORAL, 0, (None, 2e-6), 3, 1.0, 0.25, 0.3, 1.0, 0.5, 0.5),
    ),
)


def with_matching(recipe: Recipe, share: float) -> Recipe:
    """The same with a share of the budget for matching distributions, taken from the other phases alike."""
    if not share:
        return recipe
    rest = sum(phase.share for phase in recipe.phases if not phase.matching)
    phases = (
        replace(phase, share=share if phase.matching else phase.share / rest * (1 - share)) for phase in recipe.phases
    )
    return replace(recipe, phases=tuple(phases))
