"""Samplers against diffusers' schedulers and against what they are by definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emo_live.config import TINY
from emo_live.engine.schedule import FewStepSampler
from emo_live.errors import BadInputError
from emo_live.models.checkpoints import sd15
from emo_live.models.sampler import SAMPLERS, NoiseSchedule, Sampler, make_sampler

Draw = Callable[..., Tensor]
SHAPE = (3, 4, 5, 5)
STEPS = (1, 2, 3, 4, 6, 7, 40)


def predict(noisy: Tensor, t: int) -> Tensor:
    """Stands in for a network: any function of what a network sees will do."""
    return torch.tanh(noisy.roll(1, 1) + noisy.flip(2) * 0.5) * (1 + t / 2000)


def sampled(sampler: Sampler, noise: Tensor, fresh: Callable[[], Tensor]) -> list[Tensor]:
    """Latents after every step."""
    path = [noise]
    for i, t in enumerate(sampler.timesteps):
        path.append(sampler.step(i, path[-1], predict(path[-1], t), fresh))
    return path[1:]


def never() -> Tensor:
    raise AssertionError("no fresh noise is due here")


def scheduler(kind: str, **settings: object) -> object:
    """One of diffusers' schedulers with the settings of published Hallo."""
    diffusers = pytest.importorskip("diffusers")
    config = sd15.SCHEDULE
    return getattr(diffusers, kind)(
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.kind,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        **settings,
    )


@pytest.fixture
def numbered(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], Tensor]]:
    """Makes a scheduler's module draw the noise that we draw, and gives a fresh run of it."""
    noises = [draw(*SHAPE) for _ in range(max(STEPS))]

    def ready(module: str) -> Callable[[], Tensor]:
        theirs: Iterator[Tensor] = iter(noises)
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **given: next(theirs))
        ours = iter(noises)
        return lambda: next(ours)

    return ready


@pytest.mark.parametrize("steps", STEPS)
def test_ddim_is_the_published_one(draw: Draw, steps: int) -> None:
    """Also where steps do not divide 1000, and noise is left over at the end."""
    theirs = scheduler("DDIMScheduler", timestep_spacing="trailing", set_alpha_to_one=True, steps_offset=1)
    theirs.set_timesteps(steps)  # type: ignore[attr-defined]
    ours, x = make_sampler("ddim", sd15.SCHEDULE, steps), draw(*SHAPE)
    assert ours.timesteps == theirs.timesteps.tolist()  # type: ignore[attr-defined]
    for t, latents in zip(ours.timesteps, sampled(ours, x, never), strict=True):
        x = theirs.step(predict(x, t), t, x).prev_sample  # type: ignore[attr-defined]
        torch.testing.assert_close(latents, x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("steps", STEPS)
def test_lcm_is_diffusers(draw: Draw, numbered: Callable[[str], Callable[[], Tensor]], steps: int) -> None:
    """At equal timesteps: theirs spreads its own over 50 steps of a distillation that ours has not had, so it is handed
    ours. Its blend with the input at the clean end is scaled away; the next test has it."""
    theirs = scheduler("LCMScheduler", timestep_scaling=1e12, set_alpha_to_one=True)
    fresh = numbered("diffusers.schedulers.scheduling_lcm")
    compare_at_our_timesteps(theirs, make_sampler("lcm", sd15.SCHEDULE, steps), draw(*SHAPE), fresh)


def test_lcm_with_the_blend_at_the_clean_end(draw: Draw, numbered: Callable[[str], Callable[[], Tensor]]) -> None:
    """What ours leaves out is below 1e-5 at the timesteps of up to eight steps."""
    theirs, fresh = scheduler("LCMScheduler"), numbered("diffusers.schedulers.scheduling_lcm")
    compare_at_our_timesteps(theirs, make_sampler("lcm", sd15.SCHEDULE, 8), draw(*SHAPE), fresh)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", STEPS)
def test_tcd_is_diffusers(draw: Draw, numbered: Callable[[str], Callable[[], Tensor]], steps: int, eta: float) -> None:
    """But for the last step: theirs ends at timestep 0, with 3 % of noise left, ours at the clean end."""
    theirs = scheduler("TCDScheduler")
    fresh = numbered("diffusers.schedulers.scheduling_tcd")
    compare_at_our_timesteps(theirs, make_sampler("tcd", sd15.SCHEDULE, steps, eta=eta), draw(*SHAPE), fresh, eta=eta)


def compare_at_our_timesteps(
    theirs: object, ours: Sampler, noise: Tensor, fresh: Callable[[], Tensor], **settings: float
) -> None:
    theirs.set_timesteps(timesteps=ours.timesteps)  # type: ignore[attr-defined]
    x = noise
    for i, (t, latents) in enumerate(zip(ours.timesteps, sampled(ours, noise, fresh), strict=True)):
        step = theirs.step(predict(x, t), t, x, **settings)  # type: ignore[attr-defined]
        if "eta" in settings and i == len(ours.timesteps) - 1:  # tcd: the same clean latents, theirs with noise on them
            schedule, times, end = NoiseSchedule(sd15.SCHEDULE), torch.full((3,), t), torch.zeros(3, dtype=torch.long)
            latents = schedule.add_noise(latents, schedule.noise_from_velocity(x, predict(x, t), times), end)
        x = step.prev_sample
        torch.testing.assert_close(latents, x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["ddim", "segment"])
def test_without_the_habit_a_step_ends_where_the_next_begins(draw: Draw, name: str, steps: int) -> None:
    """ddim of a checkpoint without it, segment always. A network that knows the truth then finds it."""
    config = replace(sd15.SCHEDULE, fixed_stride=name == "segment")
    schedule, sampler, clean, noise = (
        NoiseSchedule(config),
        make_sampler(name, config, steps),
        draw(*SHAPE),
        draw(*SHAPE),
    )
    x = noise
    for i, t in enumerate(sampler.timesteps):
        times = torch.full((3,), t)
        torch.testing.assert_close(x, schedule.add_noise(clean, noise, times), rtol=0, atol=1e-5)
        x = sampler.step(i, x, schedule.velocity(clean, noise, times), never)
    torch.testing.assert_close(x, clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_has_the_noise_its_timestep_says(draw: Draw, name: str) -> None:
    """For clean latents that are zero, known to the network: what is left is noise of the schedule's spread."""
    config = replace(sd15.SCHEDULE, fixed_stride=False)
    schedule, sampler = NoiseSchedule(config), make_sampler(name, config, 4)
    x = draw(64, 4, 16, 16)
    for i, t in enumerate(sampler.timesteps):
        times = torch.full((64,), t)
        signal, spread = schedule.coefficients(times)
        assert x.std().item() == pytest.approx(spread[0].item(), rel=0.01)
        x = sampler.step(i, x, signal * (x / spread), lambda: draw(64, 4, 16, 16))
    assert x.abs().max() < 1e-5


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_frame_may_be_at_a_step_of_its_own(draw: Draw, name: str) -> None:
    sampler, noisy, v, fresh = make_sampler(name, sd15.SCHEDULE, 6), draw(*SHAPE), draw(*SHAPE), draw(*SHAPE)
    together = sampler.step([5, 0, 3], noisy, v, lambda: fresh)
    for row, i in enumerate((5, 0, 3)):
        alone = sampler.step(i, noisy, v, lambda: fresh)
        assert torch.equal(together[row], alone[row])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", ["ddim", "segment"])
def test_the_sampler_without_torch_agrees(draw: Draw, name: str, steps: int) -> None:
    """Of the tiny model, whose engine has no torch."""
    ours, noise = make_sampler(name, TINY.emo.schedule, steps), draw(*SHAPE)
    engine = FewStepSampler(TINY.emo.schedule, steps)
    theirs = engine.sample(noise.numpy(), lambda x, t: predict(torch.from_numpy(x).float(), t).numpy())
    assert ours.timesteps == engine.timesteps
    torch.testing.assert_close(sampled(ours, noise, never)[-1], torch.from_numpy(theirs), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SAMPLERS)
def test_half_predictions_leave_the_latents_whole(draw: Draw, name: str, dtype: torch.dtype) -> None:
    sampler, noisy, v = make_sampler(name, sd15.SCHEDULE, 4), draw(*SHAPE), draw(*SHAPE)
    whole = sampler.step(1, noisy, v.to(dtype).float(), lambda: noisy)
    half = sampler.step(1, noisy, v.to(dtype), lambda: noisy)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0, atol=1e-6)
    assert sampler.step(1, noisy.to(dtype), v.to(dtype), lambda: noisy.to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("name", "steps", "eta", "says"),
    [
        ("euler", 4, 0.3, 'unknown sampler "euler": choose one of ddim, lcm, tcd, segment'),
        ("ddim", 0, 0.3, "steps must be 1 to 1000, not 0"),
        ("lcm", 1001, 0.3, "steps must be 1 to 1000, not 1001"),
        ("tcd", 4, -0.1, "eta must be 0 to 1"),
        ("tcd", 4, float("nan"), "eta must be 0 to 1"),
    ],
)
def test_bad_input_is_one_line(name: str, steps: int, eta: float, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        make_sampler(name, sd15.SCHEDULE, steps, eta=eta)
