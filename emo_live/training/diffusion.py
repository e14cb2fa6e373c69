"""Stage 2: the teacher. Many-step diffusion of motion latents (v-prediction) from sound, portrait, motion frames and speed.

Loss: v error, weighted by place (lips, eyes, face) and by min-SNR; a small head on the audio tokens regresses the mouth
shapes, so that the audio projection learns to hear before the backbone learns to draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY, TinyConfig
from emo_live.engine.noise import FrameNoise
from emo_live.models.attention import Attention
from emo_live.models.emo import Portrait, TinyEmo, frame_windows
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import NoiseSchedule, guided
from emo_live.training.motion_data import BEFORE, MotionData
from emo_live.training.run import Run, autocast, optimizers, pick_device

AUDIO_DROP, MOTION_DROP = 0.1, 0.08
SNR_CAP = 5.0
MOTION_NOISE = 0.3  # motion frames get noise up to this, so that small errors of a roll-out are not amplified


class Teacher(TinyEmo):
    """TinyEmo with the head that only training needs."""

    def __init__(self, tiny: TinyConfig, shapes: int = 52):
        super().__init__(tiny)
        projection = tiny.emo.audio_projection
        self.shape_head = nn.Linear(projection.tokens * projection.token_width, shapes)


def place_weight(mask: Tensor, size: int) -> Tensor:
    """(B, 4, H, W) locator masks -> (B, 1, 1, size, size) loss weights with mean near 1."""
    small = F.interpolate(F.max_pool2d(mask, 4), size=(size, size), mode="area")
    small = (small + F.max_pool2d(small, 3, 1, 1)) / 2  # what moves with the lips and lids lies around them
    weight = 0.25 + 0.6 * small[:, 0] + 3 * small[:, 1] + 4 * small[:, 2]
    return (weight / weight.mean((1, 2), keepdim=True))[:, None, None]


def sound_tokens(model: TinyEmo, features: Tensor) -> Tensor:
    out: Tensor = model.audioproj(frame_windows(features, TINY.emo.audio_projection.blocks, BEFORE))
    return out


def sample_windows(
    model: TinyEmo,
    noise: Tensor,
    portrait: Portrait,
    motion: Bank,
    tokens: Tensor,
    speed: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    guidance: float,
) -> Tensor:
    """DDIM from noise (B, T, C, h, w), folded latents -> clean folded latents. guidance on the sound."""
    x, times = noise, schedule.trailing(steps)
    for now, to in zip(times, [*times[1:], -1], strict=True):
        t = torch.full(x.shape[:2], now, device=x.device)
        v = model.velocity(x, t, portrait, motion, tokens, speed).float()
        if guidance != 1:
            deaf = model.velocity(x, t, portrait, motion, torch.zeros_like(tokens), speed).float()
            v = guided(deaf, v, guidance)
        flat = t.flatten()
        x = schedule.ddim_step(x.flatten(0, 1), v.flatten(0, 1), flat, torch.full_like(flat, to)).view_as(x)
    return x


class DiffusionLoss:
    def __init__(self, model: Teacher, device: torch.device):
        self.model, self.device, self.schedule = model, device, NoiseSchedule(model.config.schedule)

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model, schedule = self.model, self.schedule
        batch = {name: value[:, 0].to(self.device) for name, value in batch.items()}
        b, frames = batch["z"].shape[:2]
        clean = model.fold(batch["z"])
        t = torch.randint(0, schedule.train_steps, (b, 1), device=self.device).expand(b, frames)
        own = torch.randint(0, schedule.train_steps, (b, frames), device=self.device)
        t = torch.where(torch.rand(b, 1, device=self.device) < 0.15, own, t).flatten()  # per-frame timesteps
        noise = torch.randn_like(clean)
        noisy = schedule.add_noise(clean.flatten(0, 1), noise.flatten(0, 1), t)
        target = schedule.velocity(clean.flatten(0, 1), noise.flatten(0, 1), t)
        with autocast(self.device):
            tokens = sound_tokens(model, batch["features"])
            heard = model.shape_head(tokens.flatten(2))
            tokens = tokens * (torch.rand(b, 1, 1, 1, device=self.device) >= AUDIO_DROP)
            portrait = model.prepare(batch["portrait"], batch["mask"])
            motion = model.motion_bank(self.blur_motion(batch["motion"]), portrait)
            v = model.velocity(
                noisy.view_as(clean),
                t.view(b, frames),
                portrait,
                motion,
                tokens,
                model.speed_encoder(batch["velocity"]),
            )
        shapes = F.mse_loss(heard.float(), batch["arkit"], reduction="none")[..., self.mouth_shapes()].mean()
        signal, spread = schedule.coefficients(t)
        snr = (signal / spread.clamp(min=1e-4)) ** 2
        weight = snr.clamp(max=SNR_CAP) / (snr + 1) + 0.3 * (
            snr < 0.05
        )  # min-SNR for v (2303.09556), the first step kept alive
        error = (v.float().flatten(0, 1) - target).square() * weight.view(-1, 1, 1, 1)
        place = place_weight(batch["mask"], batch["z"].shape[-1]).expand(-1, frames, -1, -1, -1)
        place = model.fold(place.expand(-1, -1, batch["z"].shape[2], -1, -1)).flatten(0, 1)
        loss = (error * place).mean()
        return {"loss": loss + 2 * shapes, "v": loss, "shapes": shapes}

    def blur_motion(self, motion: Tensor) -> Tensor:
        noisy = (
            motion + torch.randn_like(motion) * torch.rand(len(motion), 1, 1, 1, 1, device=motion.device) * MOTION_NOISE
        )
        keep: Tensor = torch.rand(len(motion), 1, 1, 1, 1, device=motion.device) >= MOTION_DROP
        return noisy * keep

    @staticmethod
    def mouth_shapes() -> slice:
        return slice(23, 52)  # jaw*, mouth* and nose* in alphabetical order; see the test of this slice


@torch.no_grad()
def roll_out(
    model: TinyEmo,
    data: MotionData,
    track: int,
    *,
    steps: int,
    guidance: float,
    frames: int = 8,
    seed: int = 0,
    sampler: Any = sample_windows,
    velocity: float | None = None,
) -> np.ndarray:
    """A whole track window by window on the model's own output: (T, C, h, w)."""
    chosen, schedule = data.tracks[track], NoiseSchedule(model.config.schedule)
    noise_of = FrameNoise(seed, chosen.z.shape[1:])
    outline = data.portrait(chosen.portrait)
    with autocast(torch.device("cpu")):
        portrait = model.prepare(outline["portrait"][None], outline["mask"][None])
        done = [torch.zeros(1, TINY.emo.motion_frames, *chosen.z.shape[1:])]
        for start in range(0, len(chosen.z) - frames + 1, frames):
            w = {name: value[None] for name, value in data.window(chosen, start, frames, 0).items()}
            pace = w["velocity"] if velocity is None else torch.full_like(w["velocity"], velocity)
            bank = model.motion_bank(done[-1][:, -TINY.emo.motion_frames :], portrait)
            noise = torch.from_numpy(np.stack([noise_of(start + i) for i in range(frames)]))[None]
            x = sampler(
                model,
                model.fold(noise),
                portrait,
                bank,
                sound_tokens(model, w["features"]),
                model.speed_encoder(pace),
                schedule,
                steps,
                guidance,
            )
            done.append(model.unfold(x.float()))
    return torch.cat(done[1:], 1)[0].numpy()


def opening(z: np.ndarray, mask: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """Mouth opening signal (T,) of latents: hole share inside the lips' neighbourhood. probe: (C,) hole per latent unit."""
    lips = F.interpolate(F.max_pool2d(torch.from_numpy(mask[None, 2:3]), 9, 1, 4), size=z.shape[-2:], mode="area")[
        0, 0
    ].numpy()
    return np.einsum("tchw,c,hw->t", z.astype(np.float32), probe, lips)


def measure(
    model: TinyEmo, data: MotionData, probe: np.ndarray, *, steps: int, guidance: float, count: int = 8
) -> dict[str, float]:
    """Roll-outs on held-out tracks: correlation of the opening with the true one, its size, velocity energy (mouth and all)."""
    corr, size, energy, energy_mouth, still = [], [], [], [], []
    for k in range(0, len(data.tracks), max(1, len(data.tracks) // count)):
        track = data.tracks[k]
        z = roll_out(model, data, k, steps=steps, guidance=guidance)
        true, mask = track.z[: len(z)].astype(np.float32), data.masks[track.portrait]
        a, b = opening(z, mask, probe), opening(true, mask, probe)
        corr.append(np.corrcoef(a, b)[0, 1])
        size.append(a.std() / b.std())
        energy.append(np.square(np.diff(z, axis=0)).mean() / np.square(np.diff(true, axis=0)).mean())
        lips = place_weight(torch.from_numpy(mask[None]), z.shape[-1])[0, 0].numpy() > 2
        energy_mouth.append(
            np.square(np.diff(z, axis=0) * lips).mean() / np.square(np.diff(true, axis=0) * lips).mean()
        )
        if track.silent[: len(z)].sum() > 8:
            still.append(a[track.silent[: len(z)]].std() / b.std())
    return {
        "corr": float(np.mean(corr)),
        "opening": float(np.mean(size)),
        "energy": float(np.mean(energy)),
        "energy_mouth": float(np.mean(energy_mouth)),
        "silent": float(np.mean(still)) if still else 0.0,
    }


def train(
    data: Path,
    points: dict[str, np.ndarray],
    basis: np.ndarray,
    out: Path,
    *,
    minutes: float,
    steps: int | None,
    batch: int,
    seed: int,
    frames: tuple[int, ...] = (8,),
) -> dict[str, float]:
    """basis: (C,) hole share per latent unit, for the opening signal."""
    torch.manual_seed(seed)
    device = pick_device()
    train_data, val_data = MotionData(data, "train", points), MotionData(data, "val", points)
    print(f"{len(train_data.tracks)} tracks, {len(val_data.tracks)} held out", flush=True)
    Attention.kernel = "matmul" if device.type == "cpu" else "sdpa"  # the fused CPU kernel is slow on short sequences
    model = Teacher(TINY).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(out, model, optimizers(model, 1e-2, 2e-3), minutes=minutes, max_steps=steps)
    loss = DiffusionLoss(model, device)

    def sample(ema: nn.Module, path: Path) -> dict[str, float]:
        assert isinstance(ema, TinyEmo)
        return {f"val_{k}": v for k, v in measure(ema, val_data, basis, steps=4, guidance=1.0, count=3).items()}

    return run.train(train_data.batches(batch, frames, seed + run.step), loss, sample, sample_every_s=720)
