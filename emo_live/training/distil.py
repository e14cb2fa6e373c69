"""Stage 4: the one-step student. Starts as the teacher; learns to draw whole windows from noise in one step.

Loss: the energy score (Gneiting and Raftery 2007) of two draws against the true window, over lips, eyes and everything. It is
smallest only where the draws have the truth's distribution, so blinks and head motion stay random instead of averaging out.
The diffusion loss goes on beside it, so that more steps still work. A share of the windows continues the student's own output.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.engine.noise import TAPS, filters
from emo_live.models.attention import Attention
from emo_live.models.emo import Portrait, TinyEmo
from emo_live.models.reference_net import Bank
from emo_live.training.diffusion import DiffusionLoss, Teacher, measure, sound_tokens
from emo_live.training.motion_data import MotionData
from emo_live.training.run import Run, autocast, optimizers, pick_device

FAST, SLOW = (
    0.45,
    0.93,
)  # how much of a roll-out's deviation is left after a frame: fine detail, and pose (broad motion)


def one_step(model: TinyEmo, noise: Tensor, portrait: Portrait, motion: Bank, tokens: Tensor, speed: Tensor) -> Tensor:
    """Noise -> latents, both (B, T, C, h, w): at the last timestep of a zero-SNR schedule x0 is -v."""
    last = torch.full(noise.shape[:2], model.config.schedule.train_steps - 1, device=noise.device)
    return model.unfold(-model.velocity(model.fold(noise), last, portrait, motion, tokens, speed).float())


def correlated(white: Tensor) -> Tensor:
    """(B, TAPS - 1 + T, C, h, w) white noise -> (B, T, C, h, w) noise as engine/noise.py makes it."""
    weights = torch.from_numpy(filters(white.shape[2])).to(white.device)
    return torch.einsum("btchwk,ck->btchw", white.unfold(1, TAPS, 1), weights)


def repeat(portrait: Portrait, bank: Bank, times: int) -> tuple[Portrait, Bank]:
    def twice(x: Tensor) -> Tensor:
        return x.repeat(times, *[1] * (x.ndim - 1))

    wide = Portrait(
        twice(portrait.code),
        {k: twice(v) for k, v in portrait.bank.items()},
        twice(portrait.locator),
        tuple((twice(a), twice(b), twice(c)) for a, b, c in portrait.masks),
    )
    return wide, {k: twice(v) for k, v in bank.items()}


def groups(mask: Tensor, size: int) -> Tensor:
    """(B, 4, H, W) locator masks -> (B, 3, size, size): where lips, eyes and everything count in the energy score."""
    small = F.interpolate(F.max_pool2d(mask, 4), size=(size, size), mode="area")
    wide = (small + F.max_pool2d(small, 3, 1, 1)) / 2
    return torch.stack([wide[:, 2], wide[:, 1], 0.15 + 0.5 * wide[:, 0]], 1)


def distances(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """Weighted distances of windows (B, T, C, h, w): per group over the window, per frame of the lips, and of the motion."""
    square = (a - b).square().sum(2)  # (B, T, h, w)
    per_frame = torch.einsum("bthw,bghw->bgt", square, where)
    moved = (a - b).diff(dim=1).square().sum(2)
    per_move = torch.einsum("bthw,bghw->bgt", moved, where)
    cells = where.sum((2, 3)) * a.shape[2]  # (B, 3)
    window = (per_frame.mean(2) / cells + 1e-6).sqrt() @ a.new_tensor([1.5, 1.0, 1.0])
    lips = (per_frame[:, 0] / cells[:, :1] + 1e-6).sqrt().mean(1)
    motion = (per_move.mean(2) / cells + 1e-6).sqrt() @ a.new_tensor([1.0, 0.7, 0.7])
    return window + lips + motion


def reanchored(target: Tensor, deviation: Tensor) -> Tensor:
    """The true window moved so that it continues what the student drew: deviation (B, C, h, w) of its last frame fades out."""
    broad = F.avg_pool2d(F.pad(deviation, (2, 2, 2, 2), mode="replicate"), 5, 1)
    k = torch.arange(1, target.shape[1] + 1, device=target.device)[:, None, None, None]
    return target + broad[:, None] * SLOW**k + (deviation - broad)[:, None] * FAST**k


class DistilLoss:
    """batch: two windows in a row per row; the second is trained from the true or the own end of the first."""

    def __init__(self, model: Teacher, device: torch.device, own_share: float):
        self.model, self.device, self.own_share = model, device, own_share
        self.diffusion = DiffusionLoss(model, device)

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model = self.model
        batch = {name: value.to(self.device) for name, value in batch.items()}
        now = {name: value[:, 1] for name, value in batch.items()}
        target, motion = now["z"], now["motion"]
        size, frames, *shape = target.shape
        past = torch.randn(size, TAPS - 1 + frames, *shape, device=self.device)  # the noise of the window before
        new = [torch.randn(size, frames, *shape, device=self.device) for _ in range(2)]
        noise = torch.cat([correlated(torch.cat([past, fresh], 1)[:, -(TAPS - 1 + frames) :]) for fresh in new])
        with autocast(self.device):
            portrait = model.prepare(now["portrait"], now["mask"])
            if torch.rand(()) < self.own_share:
                ends = self._own_ends({name: value[:, 0] for name, value in batch.items()}, portrait, correlated(past))
                target = reanchored(target, ends[:, -1] - motion[:, -1])
                motion = ends
            else:
                motion = self.diffusion.blur_motion(motion)
            bank = model.motion_bank(motion, portrait)
            wide, wide_bank = repeat(portrait, bank, 2)
            tokens, speed = sound_tokens(model, now["features"]), model.speed_encoder(now["velocity"])
            heard = model.shape_head(tokens.flatten(2))
            draws = one_step(model, noise, wide, wide_bank, tokens.repeat(2, 1, 1, 1), speed.repeat(2, 1, 1))
        a, b = draws.chunk(2)
        where = groups(now["mask"], target.shape[-1])
        miss = (distances(a, target, where) + distances(b, target, where)).mean() / 2
        spread = distances(a, b, where).mean()
        shapes = F.mse_loss(heard.float(), now["arkit"], reduction="none")[..., self.diffusion.mouth_shapes()].mean()
        loss = miss - 0.5 * spread + shapes
        return {"loss": loss, "miss": miss, "spread": spread, "shapes": shapes}

    @torch.no_grad()
    def _own_ends(self, before: dict[str, Tensor], portrait: Portrait, noise: Tensor) -> Tensor:
        model = self.model
        bank = model.motion_bank(before["motion"], portrait)
        z = one_step(
            model,
            noise,
            portrait,
            bank,
            sound_tokens(model, before["features"]),
            model.speed_encoder(before["velocity"]),
        )
        return z[:, -TINY.emo.motion_frames :]


def train(
    data: Path,
    points: dict[str, np.ndarray],
    teacher: Path,
    basis: np.ndarray,
    out: Path,
    *,
    minutes: float,
    steps: int | None,
    batch: int,
    seed: int,
    frames: tuple[int, ...] = (8, 8, 4, 2),
    own_share: float = 0.6,
) -> dict[str, float]:
    torch.manual_seed(seed)
    device = pick_device()
    Attention.kernel = "matmul" if device.type == "cpu" else "sdpa"
    train_data, val_data = MotionData(data, "train", points), MotionData(data, "val", points)
    model = Teacher(TINY)
    model.load_state_dict(torch.load(teacher / "state.pt", map_location="cpu", weights_only=True)["ema"])
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(out, model, optimizers(model, 4e-3, 8e-4), minutes=minutes, max_steps=steps, ema=0.995)
    loss = DistilLoss(model, device, own_share)

    def sample(ema: nn.Module, path: Path) -> dict[str, float]:
        assert isinstance(ema, TinyEmo)
        return {f"val_{k}": v for k, v in measure(ema, val_data, basis, steps=1, guidance=1.0, count=6).items()}

    return run.train(train_data.batches(batch, frames, seed + run.step, ahead=1), loss, sample)
