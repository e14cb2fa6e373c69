"""Whole performances generated window by window on the model's own output, as the engine does, and their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.engine.motion_prior import FrameNoise
from emo_live.models.autoencoder import HOLE_GAIN, MotionBasis
from emo_live.models.emo import Portrait
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import NoiseSchedule, guided
from emo_live.training.motion_data import MotionData
from emo_live.training.run import autocast
from emo_live.training.teacher import Teacher
from emo_live.training.trials import spread


@dataclass(frozen=True, slots=True)
class Sampling:
    """steps of DDIM; guidance on the sound, 1 for none; frames a window; velocity in degrees a second, None: the true
    one; noise: its strength."""

    steps: int
    guidance: float = 1.0
    frames: int = 8
    seed: int = 0
    velocity: float | None = None
    noise: float = 1.0


def sample_window(
    model: Teacher,
    noise: Tensor,
    portrait: Portrait,
    motion: Bank,
    anchor: Tensor,
    tokens: Tensor,
    speed: Tensor,
    sampling: Sampling,
) -> Tensor:
    """DDIM from noise to how the latents deviate from the anchor, all (B, T, C, h, w)."""
    schedule = NoiseSchedule(model.config.schedule)
    x, times = noise, schedule.trailing(sampling.steps)
    for now, to in zip(times, [*times[1:], -1], strict=True):
        t = torch.full(x.shape[:2], now, device=x.device)
        v = model.prior(model.denoise(x, t, portrait, motion, anchor, tokens, speed).float())
        if sampling.guidance != 1:
            deaf = model.denoise(x, t, portrait, motion, anchor, torch.zeros_like(tokens), speed).float()
            v = guided(model.prior(deaf), v, sampling.guidance)
        flat = t.flatten()
        x = schedule.ddim_step(x.flatten(0, 1), v.flatten(0, 1), flat, torch.full_like(flat, to)).view_as(x)
    return x


@torch.no_grad()
def roll_out(model: Teacher, data: MotionData, number: int, sampling: Sampling) -> np.ndarray:
    """Track `number` from its sound, true gestures and portrait: (T, C, h, w)."""
    track = data.tracks[number]
    noise_of, outline = FrameNoise(sampling.seed, model.prior.prior), data.portrait(track.portrait)
    frames = sampling.frames
    device = next(model.parameters()).device
    with autocast(device):
        portrait = model.prepare(outline["portrait"][None].to(device), outline["mask"][None].to(device))
        done = [torch.zeros(1, TINY.emo.motion_frames, *track.z.shape[1:], device=device)]
        for start in range(0, len(track.z) - frames + 1, frames):
            given = {name: value[None].to(device) for name, value in data.window(track, start, frames, 0).items()}
            pace = given["velocity"]
            if sampling.velocity is not None:
                pace = torch.full_like(pace, sampling.velocity)
            motion = done[-1][:, -TINY.emo.motion_frames :]
            bank = model.motion_bank(motion, portrait)
            noise = sampling.noise * torch.from_numpy(noise_of.frames(start, start + frames))[None].to(device)
            tokens, anchor = model.audio_tokens(given["features"]), model.anchor(given)
            own = sample_window(model, noise, portrait, bank, anchor, tokens, model.speed_encoder(pace), sampling)
            done.append(model.latents(own, anchor))
    return torch.cat(done[1:], 1)[0].cpu().numpy()


def around_lips(mask: np.ndarray, size: int) -> np.ndarray:
    """(4, H, W) locator mask -> (size, size) share of lips and what lies next to them."""
    lips = F.max_pool2d(torch.from_numpy(mask[None, 2:3]), 9, 1, 4)
    return F.interpolate(lips, size=(size, size), mode="area")[0, 0].numpy()


def opening(z: np.ndarray, mask: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """(T,) how open the mouth is: hole share of latents (T, C, h, w) around the lips."""
    holes = basis.basis[2 * basis.patch**2 :].mean(0) * basis.scale / HOLE_GAIN
    return np.einsum("tchw,c,hw->t", z.astype(np.float32), holes.numpy(), around_lips(mask, z.shape[-1]))


def velocity_energy(z: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """(h, w) how much latents (T, C, h, w) move from frame to frame: mean square of the flow's change, px^2."""
    flow = (basis.basis[: 2 * basis.patch**2] * basis.scale / basis.patch).numpy()
    changes = np.tensordot(np.diff(z.astype(np.float32), axis=0), flow, (1, 1))  # (T - 1, h, w, pixels)
    return np.asarray(np.square(changes).sum(-1).mean(0))


def measure(model: Teacher, data: MotionData, basis: MotionBasis, sampling: Sampling, count: int) -> dict[str, float]:
    """Medians over roll-outs of `count` held-out tracks, against the truth.

    val_corr, val_opening: correlation of the mouth's opening, and its size; val_silent: its size while nothing is said,
    0 is right; val_energy, val_energy_mouth: velocity energy, 1 is right. Where a model samples what is likely rather
    than the likeliest, its correlation is at best the square of the best one.
    """
    rows: dict[str, list[float]] = {}
    for k in spread(range(len(data.tracks)), count):
        track = data.tracks[k]
        z = roll_out(model, data, k, sampling)
        true, mask, silent = track.z[: len(z)].astype(np.float32), data.masks[track.portrait], track.silent[: len(z)]
        made, wanted = opening(z, mask, basis), opening(true, mask, basis)
        if wanted.std() > 1e-3 and not silent.all():
            rows.setdefault("val_corr", []).append(float(np.corrcoef(made, wanted)[0, 1]))
            rows.setdefault("val_opening", []).append(float(made.std() / wanted.std()))
            if silent.sum() > 8:
                rows.setdefault("val_silent", []).append(float(made[silent].std() / wanted.std()))
        speed, wanted_speed = (velocity_energy(x, basis) for x in (z, true))
        lips = around_lips(mask, z.shape[-1]) > 0.5
        rows.setdefault("val_energy", []).append(float(speed.mean() / wanted_speed.mean()))
        rows.setdefault("val_energy_mouth", []).append(float(speed[lips].mean() / wanted_speed[lips].mean()))
    return {name: float(np.median(values)) for name, values in rows.items()}


def sampler(
    data: MotionData, basis: MotionBasis, sampling: Sampling, count: int
) -> Callable[[nn.Module, Path], dict[str, float]]:
    """`measure` as Run.train calls it, which has no picture to draw."""

    def sample(model: nn.Module, path: Path) -> dict[str, float]:
        assert isinstance(model, Teacher)
        return measure(model, data, basis, sampling, count)

    return sample
