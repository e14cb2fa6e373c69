"""The one-step student. Starts as the teacher, whose first step is the mean of all it could draw; learns to make whole
windows in one step, from the end of its own window before, so that roll-outs do not drift.

What should vary (heads, lids, brows, gaze) is drawn by the gestures that the anchor has. For the rest the student
learns the likeliest: lips that vary by themselves are lips that miss the sound (docs/LOG.md). A share of the batches
learns the second of two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from emo_live.config import TINY
from emo_live.engine.motion_prior import TAPS
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.emo import Portrait
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import NoiseSchedule
from emo_live.training.diffusion import channel_weight, widened
from emo_live.training.motion_data import MotionData
from emo_live.training.roll_out import Sampling, measure
from emo_live.training.run import Budget, Run, autocast, optimizers
from emo_live.training.teacher import Teacher, start_from

OWN_SHARE = 0.5  # of the windows continue the student's own output
SECOND_SHARE = 0.25  # of the batches train the second of two steps
LENGTHS = (8, 8, 8, 4, 4, 2)  # windows of a first frame, of live sessions and of files
PART_GAINS = (1.5, 1.0, 1.0)  # lips, eyes, everything
MOVE_GAINS = (1.0, 0.7, 0.7)  # the same for differences of neighbouring frames


@dataclass(frozen=True, slots=True)
class Given:
    """What a window is generated from; anchor: (B, T, C, h, w)."""

    portrait: Portrait
    motion: Bank
    anchor: Tensor
    tokens: Tensor
    speed: Tensor


def predict_clean(model: Teacher, noisy: Tensor, step: int, given: Given) -> Tensor:
    """Noisy (B, T, C, h, w) at timestep `step` -> how the clean latents deviate from the anchor."""
    t = torch.full(noisy.shape[:2], step, device=noisy.device)
    v = model.denoise(noisy, t, given.portrait, given.motion, given.anchor, given.tokens, given.speed).float()
    schedule = NoiseSchedule(model.config.schedule)
    clean = schedule.clean_from_velocity(noisy.flatten(0, 1), v.flatten(0, 1), t.flatten())
    return model.prior(clean.view_as(noisy))


def changed(portrait: Portrait, change: Callable[[Tensor], Tensor]) -> Portrait:
    """Every tensor of a portrait through `change`, which may add or drop rows."""
    masks = tuple((change(a), change(b), change(c)) for a, b, c in portrait.masks)
    features = {name: change(value) for name, value in portrait.bank.items()}
    return Portrait(change(portrait.code), features, change(portrait.locator), masks)


def parts(mask: Tensor, size: int) -> Tensor:
    """(B, 4, H, W) locator masks -> (B, 3, size, size): where lips, eyes and everything count."""
    wide = widened(mask, size)
    return torch.stack([wide[:, 2], wide[:, 1], 0.15 + 0.5 * wide[:, 0]], 1)


def distances(a: Tensor, b: Tensor, where: Tensor, channels: Tensor) -> Tensor:
    """(B,) weighted distances of windows (B, T, C, h, w): of parts over the window, of lips and eyes per frame, of
    motion."""
    cells = where.sum((2, 3)) * a.shape[2]  # (B, 3)

    def per_frame(x: Tensor) -> Tensor:
        return torch.einsum("btchw,bghw->bgt", x.square() * channels, where)

    placed, moved = per_frame(a - b), per_frame((a - b).diff(dim=1))
    window = (placed.mean(2) / cells + 1e-6).sqrt() @ a.new_tensor(PART_GAINS)
    often = (placed[:, :2] / cells[:, :2, None] + 1e-6).sqrt().mean(2).sum(1)
    motion = (moved.mean(2) / cells + 1e-6).sqrt() @ a.new_tensor(MOVE_GAINS)
    return window + often + motion


class DistilLoss:
    """batch: two windows in a row per row; the second is trained, from the true or the own end of the first."""

    def __init__(self, model: Teacher, basis: MotionBasis, device: torch.device):
        self.model, self.device, self.channels = model, device, channel_weight(basis).to(device)
        self.schedule = NoiseSchedule(model.config.schedule)
        self.last, self.second = self.schedule.trailing(1)[0], self.schedule.trailing(2)[1]

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model = self.model
        batch = {name: value.to(self.device) for name, value in batch.items()}
        before, now = ({name: value[:, i] for name, value in batch.items()} for i in (0, 1))
        past, noise = self._noise(now["z"])
        with autocast(self.device):
            portrait = model.prepare(now["portrait"], now["mask"])
            anchor = model.anchor(now)
            target = model.deviation(now["z"], anchor)
            bank = model.motion_bank(self._motion(before, now, portrait, past), portrait)
            tokens, speed = model.audio_tokens(now["features"]), model.speed_encoder(now["velocity"])
            shapes = model.shape_loss(tokens, now["arkit"])
            made = self._draw(noise, Given(portrait, bank, anchor, tokens, speed))
        miss = distances(made, target, parts(now["mask"], target.shape[-1]), self.channels).mean()
        return {"loss": miss + shapes, "miss": miss, "shapes": shapes}

    def _draw(self, noise: Tensor, given: Given) -> Tensor:
        """One step from noise; or, for some batches, the second of two steps, behind the first one's own result."""
        if torch.rand(()) >= SECOND_SHARE:
            return predict_clean(self.model, noise, self.last, given)
        with torch.no_grad():
            first = predict_clean(self.model, noise, self.last, given)
        times = torch.full((first.shape[0] * first.shape[1],), self.second, device=self.device)
        noisy = self.schedule.add_noise(first.flatten(0, 1), noise.flatten(0, 1), times).view_as(first)
        return predict_clean(self.model, noisy, self.second, given)

    def _noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of the window before and of the one that continues it, (B, T, C, h, w) each."""
        (size, frames), prior = z.shape[:2], self.model.prior
        both = prior.noise(prior.white(size, TAPS - 1 + 2 * frames), z.shape[2:])
        return both[:, :frames], both[:, frames:]

    @torch.no_grad()
    def _motion(self, before: dict[str, Tensor], now: dict[str, Tensor], portrait: Portrait, noise: Tensor) -> Tensor:
        """Motion frames, for some rows the end of the student's own window before."""
        model, n = self.model, TINY.emo.motion_frames
        rows = round(len(noise) * OWN_SHARE)  # they are in no order, so the first ones will do
        portrait = changed(portrait, lambda x: x[:rows])
        before = {name: value[:rows] for name, value in before.items()}
        bank = model.motion_bank(before["motion"], portrait)
        tokens, speed = model.audio_tokens(before["features"]), model.speed_encoder(before["velocity"])
        anchor = model.anchor(before)
        own = predict_clean(model, noise[:rows], self.last, Given(portrait, bank, anchor, tokens, speed))
        return torch.cat([model.latents(own, anchor)[:, -n:], now["motion"][rows:]])


def train(
    data: tuple[MotionData, MotionData],
    basis: MotionBasis,
    model: Teacher,
    start: list[Path],
    out: Path,
    budget: Budget,
) -> dict[str, float]:
    """data: to train on and held out. start: the teacher's runs, as `start_from` takes them."""
    torch.manual_seed(budget.seed)
    device = start_from(model, start)
    run = Run(out, model, optimizers(model, 3e-3, 6e-4), budget, ema=0.995)

    def sample(ema: nn.Module, path: Path) -> dict[str, float]:
        assert isinstance(ema, Teacher)
        return measure(ema, data[1], basis, Sampling(steps=1), count=6)

    batches = data[0].batches(budget.batch, LENGTHS, budget.seed + run.step, ahead=1)
    return run.train(batches, DistilLoss(model, basis, device), sample)
