"""The teacher: many-step diffusion of motion latents (v-prediction) from sound, portrait, motion frames, head velocity.

Stages as in EMO 3.3. Image: backbone, ReferenceNet and face locator on single frames, no sound, no time. Video:
everything, on windows. Speed: only temporal and speed layers. Loss: v error weighted by place and channel, all noise
levels alike (2305.08891; min-SNR, 2303.09556, all but leaves out the first steps, in which everything is decided here);
a small head on the audio tokens regresses the mouth shapes, so that the projection hears before the backbone draws.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.engine.motion_prior import TAPS
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.hearing import HEARD, Hearing
from emo_live.models.sampler import NoiseSchedule
from emo_live.training.motion_data import MotionData
from emo_live.training.roll_out import Sampling, sampler
from emo_live.training.run import Budget, Run, autocast, optimizers
from emo_live.training.teacher import Teacher, start_from

AUDIO_DROP, MOTION_DROP = 0.1, 0.06  # for classifier-free guidance, and for windows without a past
MOTION_NOISE = 0.3  # motion frames get noise up to this, so that small errors of a roll-out are not amplified
SILENT_WEIGHT = 4.0  # of frames in which nothing is said, for hearing: lips should rest while others speak behind
OWN_TIMES = 0.15  # share of windows whose frames have a timestep each


class Stage(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    SPEED = "speed"


RATES = {Stage.IMAGE: (1e-2, 2e-3), Stage.VIDEO: (1e-2, 2e-3), Stage.SPEED: (3e-3, 6e-4)}  # of Muon and AdamW


def widened(mask: Tensor, size: int) -> Tensor:
    """(B, 4, H, W) locator masks -> (B, 4, size, size): what moves lies in the parts of a face and around them."""
    small = F.interpolate(F.max_pool2d(mask, 4), size=(size, size), mode="area")
    return (small + F.max_pool2d(small, 3, 1, 1)) / 2


def place_weight(mask: Tensor, size: int) -> Tensor:
    """(B, 4, H, W) locator masks -> (B, 1, 1, size, size) loss weights with mean 1: lips and eyes are what moves."""
    wide = widened(mask, size)
    weight = 0.25 + 0.6 * wide[:, 0] + 3 * wide[:, 1] + 4 * wide[:, 2]
    return (weight / weight.mean((1, 2), keepdim=True))[:, None, None]


def channel_weight(basis: MotionBasis) -> Tensor:
    """(C, 1, 1) with mean 1: channels are whitened but not equally visible; the root of their scale lies between."""
    scale = basis.scale.sqrt()
    return (scale / scale.mean())[:, None, None]


class DiffusionLoss:
    def __init__(self, model: Teacher, basis: MotionBasis, device: torch.device, stage: Stage):
        self.model, self.device, self.stage = model, device, stage
        self.schedule, self.channels = NoiseSchedule(model.config.schedule), channel_weight(basis).to(device)

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: as MotionData gives it; only the first of consecutive windows is used."""
        model, schedule = self.model, self.schedule
        batch = {name: value[:, 0].to(self.device) for name, value in batch.items()}
        z = batch["z"]
        size, frames = z.shape[:2]
        t = self._times(size, frames)
        anchor = model.anchor(batch)
        clean = model.deviation(z, anchor).flatten(0, 1)
        noise = model.prior.noise(model.prior.white(size, TAPS - 1 + frames), z.shape[2:]).flatten(0, 1)
        noisy, target = schedule.add_noise(clean, noise, t), schedule.velocity(clean, noise, t)
        with autocast(self.device):
            v, shapes = self._predict(noisy.view_as(z), t.view(size, frames), anchor, batch)
        v = model.prior(v.float())
        where = place_weight(batch["mask"], z.shape[-1]) * self.channels
        loss = ((v - target.view_as(z)).square() * where).mean()
        return {"loss": loss + 2 * shapes, "v": loss, "shapes": shapes}

    def _times(self, size: int, frames: int) -> Tensor:
        """(size * frames,) timesteps, the same for a whole window or, for some, each frame's own.

        The windows of a batch are spread over all noise levels, so that their mean says the same from batch to batch.
        """
        steps = self.schedule.train_steps
        spread = (torch.randperm(size, device=self.device) + torch.rand(size, device=self.device)) / size
        t = (spread * steps).long().clamp(max=steps - 1)[:, None].expand(size, frames)
        own = torch.randint(0, steps, (size, frames), device=self.device)
        return torch.where(torch.rand(size, 1, device=self.device) < OWN_TIMES, own, t).flatten()

    def _predict(self, noisy: Tensor, t: Tensor, anchor: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        model = self.model
        portrait = model.prepare(batch["portrait"], batch["mask"])
        if self.stage is Stage.IMAGE:
            return model.denoise(noisy, t, portrait, None, anchor, None, None), noisy.new_zeros(())
        tokens = model.audio_tokens(batch["features"])
        shapes = model.shape_loss(tokens, batch["arkit"])
        tokens = tokens * (torch.rand(len(tokens), 1, 1, 1, device=self.device) >= AUDIO_DROP)
        motion = model.motion_bank(self.blurred(batch["motion"]), portrait)
        speed = model.speed_encoder(batch["velocity"])
        return model.denoise(noisy, t, portrait, motion, anchor, tokens, speed), shapes

    def blurred(self, motion: Tensor) -> Tensor:
        """Motion frames (B, n, C, h, w) with noise, some of them gone."""
        rows = (len(motion), 1, 1, 1, 1)
        white = self.model.prior.white(*motion.shape[:2])
        blur = (white @ self.model.prior.basis).view_as(motion)
        noisy = motion + blur * torch.rand(rows, device=motion.device) * MOTION_NOISE
        return noisy * (torch.rand(rows, device=motion.device) >= MOTION_DROP)


def select(model: Teacher, stage: Stage) -> None:
    """Freezes what a stage does not train (EMO 3.3)."""
    for name, p in model.named_parameters():
        temporal = "motion_modules" in name or name.startswith("speed_encoder")
        heard = "audio_modules" in name or name.startswith(("audioproj", "shape_head"))
        kept = {Stage.IMAGE: not temporal and not heard, Stage.VIDEO: True, Stage.SPEED: temporal}[stage]
        p.requires_grad_(kept)


def train_hearing(data: MotionData, out: Path, budget: Budget) -> dict[str, float]:
    """Mouth shapes from sound alone, for the motion prior and as a start for the audio projection."""
    torch.manual_seed(budget.seed)
    model = Hearing(TINY.emo.audio_projection)
    run = Run(out, model, optimizers(model, 6e-3, 1e-3), budget, ema=0.99)

    batches = data.batches(budget.batch, (8,), budget.seed, first=run.step)
    return run.train(batches, lambda batch: hearing_loss(model, batch))


def hearing_loss(model: Hearing, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the first window of each row: squared error of the mouth shapes."""
    with autocast(torch.device("cpu")):
        shapes = model(batch["features"][:, 0])
    weight = 1 + (SILENT_WEIGHT - 1) * batch["silent"][:, 0, :, None].float()
    return {"loss": (weight * (shapes.float() - batch["arkit"][:, 0, :, HEARD]).square()).mean()}


def train(
    stage: Stage,
    data: tuple[MotionData, MotionData],
    basis: MotionBasis,
    model: Teacher,
    start: list[Path],
    out: Path,
    budget: Budget,
    rate: float = 1.0,
) -> dict[str, float]:
    """data: to train on and held out. start: as `start_from` takes them. rate: share of the stage's learning rates."""
    torch.manual_seed(budget.seed)
    device = start_from(model, start)
    select(model, stage)
    muon, adam = RATES[stage]
    run = Run(out, model, optimizers(model, muon * rate, adam * rate), budget)
    print(f"{len(data[0].tracks)} tracks, {len(data[1].tracks)} held out", flush=True)
    frames = (1,) if stage is Stage.IMAGE else (8,)

    return run.train(
        data[0].batches(budget.batch, frames, budget.seed, first=run.step),
        DiffusionLoss(model, basis, device, stage),
        None if stage is Stage.IMAGE else sampler(data[1], basis, Sampling(steps=6), count=3),
        sample_every_s=600,
    )
