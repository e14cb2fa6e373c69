"""The recipe's view of the tiny model: x is how motion latents deviate from the anchor.

What should vary (heads, lids, brows, gaze) is drawn by the gestures that the anchor has. For the rest the student
learns the likeliest: lips that vary by themselves are lips that miss the sound (docs/LOG.md).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from emo_live.engine.motion_prior import TAPS
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.sampler import NoiseSchedule
from emo_live.training.diffusion import channel_weight, place_weight, widened
from emo_live.training.distil.student import Batch, Given
from emo_live.training.teacher import Teacher

PART_GAINS = (1.5, 1.0, 1.0)  # lips, eyes, everything
MOVE_GAINS = (1.0, 0.7, 0.7)  # the same for differences of neighbouring frames


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


class TinyStudent:
    """model: makes the anchors, which no training changes; basis: weighs the channels."""

    def __init__(self, model: Teacher, basis: MotionBasis, device: torch.device):
        self.model, self.schedule = model, NoiseSchedule(model.config.schedule)
        self.channels = channel_weight(basis).to(device)

    def window(self, batch: Batch, i: int) -> Batch:
        chosen = {name: value[:, i] for name, value in batch.items()}
        return {**chosen, "anchor": self.model.anchor(chosen)}

    def reads(self, network: Teacher, window: Batch, past: Tensor) -> Given:
        portrait = network.prepare(window["portrait"], window["mask"])
        tokens, speed = network.audio_tokens(window["features"]), network.speed_encoder(window["velocity"])
        return Given(portrait, network.motion_bank(past, portrait), tokens, window["anchor"], speed)

    def deaf(self, network: Teacher, given: Given) -> Given:
        return replace(given, tokens=torch.zeros_like(given.tokens))

    def velocity(self, network: Teacher, x: Tensor, t: Tensor, given: Given) -> Tensor:
        assert given.anchor is not None, "deviations are from an anchor"
        v = network.denoise(x, t, given.portrait, given.motion, given.anchor, given.tokens, given.speed)
        return self.model.prior(v.float())

    def noise(self, frames: int, like: Tensor) -> Tensor:
        prior = self.model.prior
        return prior.noise(prior.white(len(like), TAPS - 1 + frames), like.shape[-3:])

    def target(self, window: Batch) -> Tensor:
        return self.model.deviation(window["z"], window["anchor"])

    def latents(self, x: Tensor, window: Batch) -> Tensor:
        return self.model.latents(x, window["anchor"])

    def past(self, window: Batch) -> Tensor:
        return window["motion"]

    def weight(self, window: Batch) -> Tensor:
        return place_weight(window["mask"], window["z"].shape[-1]) * self.channels

    def distance(self, made: Tensor, true: Tensor, window: Batch) -> Tensor:
        return distances(made, true, parts(window["mask"], true.shape[-1]), self.channels)

    def aside(self, network: Teacher, given: Given, window: Batch) -> dict[str, Tensor]:
        return {"shapes": network.shape_loss(given.tokens, window["arkit"])}
