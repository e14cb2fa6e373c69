"""The recipe's view of the published sizes: x is latents of pictures, guidance leads away from no reference and quiet.

Who it is stays unknown (the zero embedding), as it does by default when these models are used here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import EmoConfig
from emo_live.models.emo import Masks
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.sampler import NoiseSchedule
from emo_live.training.distil.student import Batch, Given

LIPS = 2  # among the masks: full, face, lips
TINY_NUMBER = 1e-6


class LatentStudent:
    def __init__(self, config: EmoConfig):
        self.config, self.schedule = config, NoiseSchedule(config.schedule)

    def window(self, batch: Batch, i: int) -> Batch:
        return {name: value[:, i] for name, value in batch.items()}

    def reads(self, network: LatentEmo, window: Batch, past: Tensor) -> Given:
        code, projection = window["code"], self.config.face_projection
        nobody = code.new_zeros(len(code), projection.width if projection else 0)
        portrait = network.prepare(code, window["region"], self.masks(window), nobody)
        motion = network.motion_bank(past, portrait) if self.config.motion_frames else None
        return Given(portrait, motion, network.audio_tokens(window["features"]))

    def masks(self, window: Batch) -> Masks:
        levels = sum(name.startswith("mask") and name.endswith("0") for name in window)
        found = [tuple(window[f"mask{i}{j}"] for j in range(3)) for i in range(levels)]
        return tuple((full, face, lips) for full, face, lips in found)

    def deaf(self, network: LatentEmo, given: Given) -> Given:
        return replace(given, portrait=network.unconditional(given.portrait), tokens=torch.zeros_like(given.tokens))

    def velocity(self, network: LatentEmo, x: Tensor, t: Tensor, given: Given) -> Tensor:
        return network.velocity(x, t, given.portrait, given.motion, given.tokens, None).float()

    def noise(self, frames: int, like: Tensor) -> Tensor:
        return torch.randn(len(like), frames, *like.shape[-3:], device=like.device)

    def target(self, window: Batch) -> Tensor:
        return window["z"]

    def latents(self, x: Tensor, window: Batch) -> Tensor:
        return x

    def past(self, window: Batch) -> Tensor:
        return window["motion"]

    def weight(self, window: Batch) -> Tensor:
        return window["z"].new_ones(())

    def distance(self, made: Tensor, true: Tensor, window: Batch) -> Tensor:
        """Lips alone: the sound says what they do, but not what the head does, whose mean would be a head that is
        still."""
        where = self.lips(window, made.shape[-2:])
        error = ((made - true).square().mean(2) * where).sum((2, 3)) / where.sum((2, 3)).clamp(min=1)
        return (error + TINY_NUMBER).sqrt().mean(1)

    def lips(self, window: Batch, size: torch.Size) -> Tensor:
        """(B, 1, h, w); sizes without masks have the lower half of where the face is."""
        if f"mask0{LIPS}" in window:
            return window[f"mask0{LIPS}"].unflatten(1, size)[:, None]
        face = F.interpolate(window["region"][:, :1], size=tuple(size), mode="area")
        rows = face.amax(3, keepdim=True).cumsum(2)
        return face * (rows > rows[:, :, -1:] / 2)

    def aside(self, network: LatentEmo, given: Given, window: Batch) -> dict[str, Tensor]:
        return {}
