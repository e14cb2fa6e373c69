"""The few-step sampler at run time, in numpy: the same arithmetic as models/sampler.py, without torch.

Steps are spread as in training (trailing timesteps, zero terminal SNR); between steps the estimate gets its share of
the predicted noise back (DDIM), so one seed gives one video.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emo_live.config import ScheduleConfig
from emo_live.engine.limits import TINY_LIMITS
from emo_live.types import Float32

MAX_STEPS = TINY_LIMITS.max_steps


def alpha_bar(config: ScheduleConfig) -> np.ndarray:
    """(train_steps,) float64: the share of signal power left at each timestep."""
    if config.kind == "linear":
        betas = np.linspace(config.beta_start, config.beta_end, config.train_steps)
    else:
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_steps) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    if config.zero_terminal_snr:
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    out: np.ndarray = root**2
    return out


class FewStepSampler:
    def __init__(self, config: ScheduleConfig, steps: int):
        TINY_LIMITS.check_steps(steps)
        bar = alpha_bar(config)
        stride = config.train_steps / steps
        self.timesteps = [round(config.train_steps - i * stride) - 1 for i in range(steps)]
        self._bars = [float(bar[t]) for t in self.timesteps] + [1.0]

    def sample(self, noise: Float32, predict: Callable[[Float32, int], Float32]) -> Float32:
        """noise: (T, C, h, w); predict(noisy, timestep) -> v. Returns clean latents."""
        x = noise
        for i, timestep in enumerate(self.timesteps):
            v = predict(x, timestep)
            signal, spread = self._bars[i] ** 0.5, (1 - self._bars[i]) ** 0.5
            clean, rest = signal * x - spread * v, spread * x + signal * v
            x = clean * self._bars[i + 1] ** 0.5 + rest * (1 - self._bars[i + 1]) ** 0.5
        return x.astype(np.float32, copy=False)
