"""Noise schedule and the samplers on it: v-prediction, zero terminal SNR, DDIM in many steps or few, guidance.

All are pure functions of (latents, prediction, timestep); the loop over steps belongs to the window and to training.
Sources: DDIM (arXiv 2010.02502), v-prediction (2202.00512), zero terminal SNR and trailing steps (2305.08891).
"""

from __future__ import annotations

import torch
from torch import Tensor

from emo_live.config import ScheduleConfig


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
