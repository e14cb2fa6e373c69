"""Noise schedule and the samplers on it: v-prediction, zero terminal SNR, DDIM, LCM, TCD and segment jumps, guidance.

All are pure functions of (latents, prediction, timestep); the loop over steps belongs to the window and to training.
Sources: DDIM (arXiv 2010.02502), v-prediction (2202.00512), zero terminal SNR and trailing steps (2305.08891), LCM
(2310.04378), TCD (2402.19159), consistency by segments (2403.06807, 2404.13686).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from emo_live.config import ScheduleConfig
from emo_live.errors import BadInputError

SAMPLERS = ("ddim", "lcm", "tcd", "segment")
TCD_ETA = 0.3  # share of the way back to the clean end that tcd goes before it adds noise again; the paper's value


class NoiseSchedule:
    """alpha_bar: (train_steps,) float64 share of signal power that is left at each timestep."""

    def __init__(self, config: ScheduleConfig):
        power = {"linear": 1.0, "scaled_linear": 0.5}[config.kind]
        start, end = config.beta_start**power, config.beta_end**power
        betas = torch.linspace(start, end, config.train_steps, dtype=torch.float64) ** (1 / power)
        root = torch.cumprod(1 - betas, 0).sqrt()
        if config.zero_terminal_snr:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        self.alpha_bar = root**2
        self.train_steps = config.train_steps

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) timesteps -> signal and noise scales, (N, 1, 1, 1) float32. t = -1 is the clean end."""
        bar = torch.where(t < 0, torch.ones((), dtype=torch.float64), self.alpha_bar.to(t.device)[t.clamp(min=0)])
        bar = bar.float()[:, None, None, None]
        return bar.sqrt(), (1 - bar).sqrt()

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a, s = self.coefficients(t)
        return a * clean + s * noise

    def velocity(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a, s = self.coefficients(t)
        return a * noise - s * clean

    def clean_from_velocity(self, noisy: Tensor, v: Tensor, t: Tensor) -> Tensor:
        a, s = self.coefficients(t)
        return a * noisy - s * v

    def noise_from_velocity(self, noisy: Tensor, v: Tensor, t: Tensor) -> Tensor:
        a, s = self.coefficients(t)
        return s * noisy + a * v

    def ddim_step(self, noisy: Tensor, v: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """One deterministic step from timesteps t to timesteps `to` (< t; -1 gives the clean latents)."""
        return self.add_noise(self.clean_from_velocity(noisy, v, t), self.noise_from_velocity(noisy, v, t), to)

    def more_noise(self, noisy: Tensor, noise: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """Latents at timesteps t -> at timesteps `to` (>= t) of the forward process, by fresh white noise."""
        keep = self.coefficients(to)[0] / self.coefficients(t)[0]
        return keep * noisy + (1 - keep**2).sqrt() * noise

    def trailing(self, steps: int) -> list[int]:
        """Timesteps of a `steps`-step sampler, last training step first. Each goes to the next one, the last to -1."""
        stride = self.train_steps / steps
        return [round(self.train_steps - i * stride) - 1 for i in range(steps)]

    def published_targets(self, steps: int) -> list[int]:
        """Where each trailing step goes in diffusers' DDIM, which published pictures come from: a fixed stride down.

        Where `steps` does not divide the training steps it misses the next timestep, and with 6 (EchoMimic's
        accelerated sampler) it ends at timestep 0 with its rest of noise, not at -1.
        """
        return [t - self.train_steps // steps for t in self.trailing(steps)]


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (2207.12598): scale 1 is no guidance."""
    return unconditional + scale * (conditional - unconditional)


class Sampler(Protocol):
    """The way from noise to clean latents in few predictions."""

    @property
    def timesteps(self) -> list[int]:
        """What the network is told in each step; the first one's latents are white noise."""
        ...

    def step(self, i: int | Sequence[int], noisy: Tensor, v: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """Latents of step i and the prediction for them -> latents of step i + 1, or the clean ones after the last.

        noisy, v: (N, C, h, w). i: one step for all, or one for each row. noise: draws fresh white noise of that shape;
        it is called by lcm and tcd alone, and not where every row is at its last step. The result has noisy's dtype,
        which should be float32 whatever the network computes in.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Path:
    """timesteps[i] -> targets[i]; -1 is the clean end."""

    schedule: NoiseSchedule
    timesteps: list[int]
    targets: list[int]

    def at(self, i: int | Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps and targets of step i, (1,) or (N,)."""
        steps = [i] if isinstance(i, int) else i
        times, targets = ([x[j] for j in steps] for x in (self.timesteps, self.targets))
        return torch.tensor(times, device=like.device), torch.tensor(targets, device=like.device)


class _Ddim(_Path):
    """Straight to the target: the predicted clean latents with the predicted noise."""

    def step(self, i: int | Sequence[int], noisy: Tensor, v: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        t, to = self.at(i, noisy)
        return self.schedule.ddim_step(noisy, v, t, to).to(noisy.dtype)


class _Lcm(_Path):
    """To the clean end, and back to the target by fresh noise.

    The paper's blend of prediction and input, which makes the network exact at t = 0, is left out: v-prediction is
    exact at the clean end anyway, and from timestep 20 on the blend changes less than 1e-5.
    """

    def step(self, i: int | Sequence[int], noisy: Tensor, v: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        t, to = self.at(i, noisy)
        clean = self.schedule.clean_from_velocity(noisy, v, t)
        if (to >= 0).any():
            clean = self.schedule.add_noise(clean, noise(), to)
        return clean.to(noisy.dtype)


@dataclass(frozen=True, slots=True)
class _Tcd(_Path):
    """Beyond the target by DDIM, to timestep (1 - eta) target, and back to it by fresh noise."""

    eta: float

    def step(self, i: int | Sequence[int], noisy: Tensor, v: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        t, to = self.at(i, noisy)
        beyond = torch.where(to < 0, to, ((1 - self.eta) * to.double()).long())
        x = self.schedule.ddim_step(noisy, v, t, beyond)
        if self.eta > 0 and (to >= 0).any():
            x = self.schedule.more_noise(x, noise(), beyond, to)
        return x.to(noisy.dtype)


def make_sampler(name: str, schedule: ScheduleConfig, steps: int, *, eta: float = TCD_ETA) -> Sampler:
    """One of SAMPLERS in `steps` predictions on trailing timesteps. Raises BadInputError.

    segment goes to the next timestep, the boundary up to which a student of segments has learnt to jump; ddim does the
    same, except that checkpoints whose schedule says `fixed_stride` keep the habit of the pipeline they came with.
    eta: tcd only, 0 (no fresh noise) to 1 (almost all noise is fresh, as in lcm).
    """
    if name not in SAMPLERS:
        raise BadInputError(f'unknown sampler "{name}": choose one of {", ".join(SAMPLERS)}')
    if not 1 <= steps <= schedule.train_steps:
        raise BadInputError(f"steps must be 1 to {schedule.train_steps}, not {steps}")
    if not 0 <= eta <= 1:
        raise BadInputError(f"eta must be 0 to 1, not {eta}")
    noise = NoiseSchedule(schedule)
    timesteps = noise.trailing(steps)
    targets = [*timesteps[1:], -1]
    if name == "lcm":
        return _Lcm(noise, timesteps, targets)
    if name == "tcd":
        return _Tcd(noise, timesteps, targets, eta)
    habit = name == "ddim" and schedule.fixed_stride
    return _Ddim(noise, timesteps, noise.published_targets(steps) if habit else targets)
