"""The network that is trained: TinyEmo and what only training needs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TinyConfig
from emo_live.engine.motion_prior import MotionPrior
from emo_live.models.attention import choose_kernel
from emo_live.models.emo import TinyEmo
from emo_live.models.hearing import HEARD, Hearing
from emo_live.training.prior import PriorLayer
from emo_live.training.run import channels_last, load_weights, pick_device

Batch = dict[str, Tensor]


def start_from(model: Teacher, runs: list[Path]) -> torch.device:
    """Takes the weights of runs, in this order, each of what it trained, and moves the model to where it will train."""
    device = pick_device()
    if device.type == "cpu":
        choose_kernel(model, "matmul")  # the fused CPU kernel is slow on short sequences
    for run in runs:
        load_weights(model, run)
    channels_last(model.to(device))
    return device


class Teacher(TinyEmo):
    """TinyEmo, the motion prior as a layer, and a head for mouth shapes. `hearing` is frozen and not saved with it."""

    def __init__(self, tiny: TinyConfig, prior: MotionPrior, hearing: Hearing, shapes: int = 52):
        super().__init__(tiny)
        self.prior = PriorLayer(prior)
        self._hearing = [hearing.eval().requires_grad_(False)]  # in a list: no submodule
        projection = tiny.emo.audio_projection
        self.shape_head = nn.Linear(projection.tokens * projection.token_width, shapes)

    @torch.no_grad()
    def anchor(self, batch: Batch) -> Tensor:
        """What a window's sound and its true gestures foretell: (B, T, C, h, w)."""
        anchor = self.prior.anchor(self._hearing[0](batch["features"]), batch["gestures"], batch["outline"])
        turned = anchor.flip(-1) * self.prior.signs
        return torch.where(batch["mirrored"][:, None, None, None, None], turned, anchor)

    def deviation(self, z: Tensor, anchor: Tensor) -> Tensor:
        """Latents -> how far they deviate from the anchor, in units of about 1: what the diffusion is about."""
        return (z - anchor) / self.prior.scale

    def latents(self, deviation: Tensor, anchor: Tensor) -> Tensor:
        return anchor + self.prior.scale * deviation.float()

    def shape_loss(self, tokens: Tensor, arkit: Tensor) -> Tensor:
        heard = self.shape_head(tokens.flatten(2)).float()
        return F.mse_loss(heard[..., HEARD], arkit[..., HEARD])
