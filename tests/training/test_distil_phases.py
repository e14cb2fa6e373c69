"""Phases of a recipe one after the other: what each gets, trains and leaves, and that a stop in between changes
nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from toy_student import PHASE, RECIPE, Mixture, Net, ToyGiven, ToyStudent  # noqa: E402

from emo_live.models.sampler import NoiseSchedule  # noqa: E402
from emo_live.training import run as running  # noqa: E402
from emo_live.training.distil.loss import spread_rows  # noqa: E402
from emo_live.training.distil.recipe import HALLO_RECIPE, TINY_RECIPE, Recipe, with_matching  # noqa: E402
from emo_live.training.distil.segments import draw_times, ends, leading_velocity, taught_velocity  # noqa: E402
from emo_live.training.distil.student import Batch, flat_step  # noqa: E402
from emo_live.training.distil.train import Course, run_phases, shares  # noqa: E402
from emo_live.training.run import Budget  # noqa: E402

CPU = torch.device("cpu")
SCHEDULE: NoiseSchedule = ToyStudent.schedule
SIDES, SPREAD = torch.tensor([-1.0, 1.0]), torch.tensor([0.3])
PHASES = (
    replace(PHASE, name="segments", share=0.3, taught=0.5, truth=1.0),
    replace(PHASE, name="rollout", share=0.3, windows=2, own=0.5, taught=0.5, own_times=0.5, truth=1.0),
    replace(PHASE, name="matching", share=0.4, taught=0.25, truth=1.0, matching=0.5),
)
SMALL = replace(RECIPE, segments=2, steps=(1, 2), fake_updates=2, phases=PHASES)


def batch(number: int, windows: int) -> Batch:
    """Of two frames, with one motion frame."""
    random = torch.Generator().manual_seed(number)
    z = SIDES[torch.randint(2, (8, windows, 2), generator=random)]
    z = z + 0.3 * torch.randn(z.shape, generator=random)
    z = z[..., None, None, None]
    return {"z": z, "motion": z[:, :, :1], "sound": torch.randn(8, windows, 2, 1, generator=random)}


def course(recipe: Recipe = SMALL, stop_at: int | None = None) -> Course:
    torch.manual_seed(1)
    left = count()

    def batches(phase: Any, first: int) -> Iterator[Batch]:
        for number in count(first):
            if stop_at is not None and next(left) == stop_at:
                raise KeyboardInterrupt
            yield batch(number, phase.windows)

    return Course(ToyStudent(), Net(2, 1, 1, width=16), recipe, batches, None)  # type: ignore[arg-type]


BUDGET = Budget(minutes=1e6, steps=20, batch=8, seed=0)


@pytest.mark.parametrize("recipe", [TINY_RECIPE, HALLO_RECIPE], ids=["tiny", "hallo"])
def test_recipes_are_whole(recipe: Recipe) -> None:
    assert sum(phase.share for phase in recipe.phases) == pytest.approx(1)
    names = [phase.name for phase in recipe.phases]
    assert names == ["segments", "rollout", "matching"] and recipe.phases[2].share == 0
    assert recipe.segments in recipe.steps, "the sampler of all segments is what is shown the truth"
    matched = with_matching(recipe, 0.2)
    assert [phase.share for phase in matched.phases][2] == 0.2
    assert sum(phase.share for phase in matched.phases) == pytest.approx(1)
    assert with_matching(recipe, 0) == recipe
    for phase in recipe.phases:
        assert phase.windows > 1 or not phase.own
        assert bool(phase.matching) == (phase.name == "matching")


def test_what_phases_get() -> None:
    planned = shares(SMALL, Budget(minutes=10, steps=None, batch=8, seed=0))
    assert [(phase.name, part.minutes, part.steps) for phase, part in planned] == [
        ("segments", pytest.approx(3), None),
        ("rollout", pytest.approx(3), None),
        ("matching", pytest.approx(4), None),
    ]
    counted = [(phase.name, part.steps) for phase, part in shares(SMALL, replace(BUDGET, steps=7))]
    assert counted == [("segments", 2), ("rollout", 2), ("matching", 3)]
    assert [phase.name for phase, _ in shares(SMALL, replace(BUDGET, steps=1))] == ["rollout"]
    assert [phase.name for phase, _ in shares(TINY_RECIPE, BUDGET)] == ["segments", "rollout"]


def test_rows_that_are_taught() -> None:
    for share, size in ((0.25, 8), (0.5, 2), (1.0, 3), (0.0, 5)):
        assert all(int(spread_rows(size, share).sum()) == round(share * size) for _ in range(20))
    assert 0.3 < sum(bool(spread_rows(1, 0.5)) for _ in range(400)) / 400 < 0.7
    assert {tuple(spread_rows(4, 0.5).tolist()) for _ in range(40)} == {(True, False) * 2, (False, True) * 2}


def test_ends_of_segments() -> None:
    t = torch.tensor([[999, 750, 749, 500, 499, 250, 249, 0]])
    assert ends(SCHEDULE, 4, t).tolist() == [[749, 749, 499, 499, 249, 249, -1, -1]]
    assert ends(SCHEDULE, 1, t).unique().tolist() == [-1]


def test_times_are_on_the_teachers_way() -> None:
    torch.manual_seed(0)
    t = draw_times(SCHEDULE, SMALL, 400, 3, own=0.4)
    assert set(t.flatten().tolist()) == set(range(999, -1, -25))
    own = (t != t[:, :1]).any(1).float().mean()
    assert 0.3 < float(own) < 0.5


def test_a_velocity_leads_where_it_should() -> None:
    torch.manual_seed(0)
    t = torch.tensor([[999, 760, 499, 24]])
    end = ends(SCHEDULE, 2, t)
    x, y = torch.randn(1, 4, 2, 1, 1), torch.randn(1, 4, 2, 1, 1)
    v = leading_velocity(SCHEDULE, x, y, t, end)
    torch.testing.assert_close(flat_step(SCHEDULE, x, v, t, end), y, rtol=0, atol=1e-4)


def test_beside_the_end_of_a_segment_the_teacher_alone_decides() -> None:
    """Where its step reaches the end, what the average says does not count."""
    torch.manual_seed(0)
    teacher = Mixture(lambda given: SIDES.view(1, 2, 1, 1).expand(len(given.sound), 2, 2, 1), SPREAD)
    given: Any = ToyGiven(torch.zeros(3, 2, 1), torch.zeros(3, 1, 1, 1, 1))
    x, t, student = torch.randn(3, 2, 1, 1, 1), torch.tensor([[524, 24]] * 3), ToyStudent()
    wanted = taught_velocity(student, (teacher, given), (Net(2, 1, 1), given), x, t, SMALL)
    torch.testing.assert_close(wanted, teacher(x, t, given), rtol=0, atol=1e-4)


def test_phases_leave_their_runs_and_hand_on_their_averages(tmp_path: Path) -> None:
    made = course()
    before = {name: p.clone() for name, p in made.network.state_dict().items()}
    values = run_phases(made, tmp_path / "out", BUDGET, CPU)
    assert {"loss", "segments", "miss", "matching"} <= values.keys()
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "board",
        "rollout",
        "segments",
    ]
    states = [
        torch.load(tmp_path / "out" / name / "state.pt", weights_only=True) for name in ("segments", "rollout", "")
    ]
    assert [state["step"] for state in states] == [6, 6, 8]
    assert all(torch.equal(p, states[2]["ema"][name]) for name, p in made.network.state_dict().items())
    assert not any(torch.equal(p, before[name]) for name, p in made.network.state_dict().items())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "used_s")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("stop_at", [4, 9, 15])
def test_stopped_in_any_phase_and_taken_up_again(stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its random numbers, its average and its fake score: as if never stopped."""
    run_phases(course(), tmp_path / "whole", BUDGET, CPU)
    monkeypatch.setattr(running, "SAVE_EVERY_S", -1.0)  # after every step
    with pytest.raises(KeyboardInterrupt):
        run_phases(course(stop_at=stop_at), tmp_path / "broken", BUDGET, CPU)
    torch.rand(17)  # another process draws other numbers
    run_phases(course(), tmp_path / "broken", BUDGET, CPU)
    for name in ("segments", "rollout", ""):
        whole, broken = (
            torch.load(tmp_path / each / name / "state.pt", weights_only=True) for each in ("whole", "broken")
        )
        assert same(whole, broken), name
    assert {"fake", "fake_optim0"} == whole["beside"].keys()
