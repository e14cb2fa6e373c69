"""Schedule algebra, DDIM against the sampler without torch, trailing timesteps, guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_live.config import TINY
from emo_live.engine.schedule import MAX_STEPS, FewStepSampler, alpha_bar
from emo_live.models.sampler import NoiseSchedule, guided

Draw = Callable[..., Tensor]
SHAPE = (4, 3, 5, 5)


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule(TINY.emo.schedule)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_both_schedules_are_one(kind: str, zero_terminal_snr: bool) -> None:
    config = replace(TINY.emo.schedule, kind=kind, zero_terminal_snr=zero_terminal_snr)
    bars = NoiseSchedule(config).alpha_bar.numpy()
    np.testing.assert_allclose(bars, alpha_bar(config), rtol=0, atol=1e-12)
    assert (np.diff(bars) < 0).all()
    assert bars[0] == pytest.approx(1 - config.beta_start)
    assert (bars[-1] == 0) == zero_terminal_snr


@pytest.mark.parametrize("t", [0, 1, 250, 750, 998, 999])
def test_velocity_gives_back_what_it_was_made_of(schedule: NoiseSchedule, draw: Draw, t: int) -> None:
    clean, noise, times = draw(*SHAPE), draw(*SHAPE), torch.full((4,), t)
    noisy, v = schedule.add_noise(clean, noise, times), schedule.velocity(clean, noise, times)
    torch.testing.assert_close(schedule.clean_from_velocity(noisy, v, times), clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(schedule.noise_from_velocity(noisy, v, times), noise, rtol=0, atol=1e-5)
    for to in (-1, 0, 100):
        arrived = schedule.ddim_step(noisy, v, times, torch.full((4,), to))
        torch.testing.assert_close(arrived, schedule.add_noise(clean, noise, torch.full((4,), to)), rtol=0, atol=1e-5)


def test_ends_of_the_schedule(schedule: NoiseSchedule, draw: Draw) -> None:
    clean, noise = draw(*SHAPE), draw(*SHAPE)
    assert torch.equal(schedule.add_noise(clean, noise, torch.full((4,), -1)), clean)
    assert torch.equal(schedule.add_noise(clean, noise, torch.full((4,), 999)), noise)


def test_every_frame_has_its_own_timestep(schedule: NoiseSchedule, draw: Draw) -> None:
    noisy, v = draw(*SHAPE), draw(*SHAPE)
    times, to = torch.tensor([999, 700, 30, 5]), torch.tensor([500, -1, 10, 0])
    together = schedule.ddim_step(noisy, v, times, to)
    for i in range(4):
        row = slice(i, i + 1)
        assert torch.equal(together[row], schedule.ddim_step(noisy[row], v[row], times[row], to[row]))


@pytest.mark.parametrize("steps", range(1, MAX_STEPS + 1))
def test_ddim_is_the_samplers_without_torch(schedule: NoiseSchedule, draw: Draw, steps: int) -> None:
    """The same trailing timesteps, and from the same noise the same latents."""
    sampler, noise, weight = FewStepSampler(TINY.emo.schedule, steps), draw(*SHAPE), draw(5, 5)

    def predict(noisy: Tensor, t: int) -> Tensor:
        return torch.tanh(noisy @ weight) * (1 + t / 1000)

    assert sampler.timesteps == schedule.trailing(steps)
    theirs = sampler.sample(noise.numpy(), lambda x, t: predict(torch.from_numpy(x).float(), t).numpy())
    x = noise
    for t, to in zip(sampler.timesteps, [*sampler.timesteps[1:], -1], strict=True):
        x = schedule.ddim_step(x, predict(x, t), torch.full((4,), t), torch.full((4,), to))
    np.testing.assert_allclose(theirs, x.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("steps", "timesteps", "published"),
    [
        (1, [999], [-1]),
        (2, [999, 499], [499, -1]),
        (4, [999, 749, 499, 249], [749, 499, 249, -1]),
        (6, [999, 832, 666, 499, 332, 166], [833, 666, 500, 333, 166, 0]),
    ],
)
def test_timesteps(schedule: NoiseSchedule, steps: int, timesteps: list[int], published: list[int]) -> None:
    assert schedule.trailing(steps) == timesteps
    assert schedule.published_targets(steps) == published


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 2.0), (1.0, 3.0), (3.5, 5.5), (-1.0, 1.0)])
def test_guidance(scale: float, expected: float) -> None:
    assert guided(torch.tensor(2.0), torch.tensor(3.0), scale).item() == expected


def test_published_targets_stay_in_the_schedule(schedule: NoiseSchedule) -> None:
    assert all(min(schedule.published_targets(steps)) in (-1, 0) for steps in range(1, 1001))
