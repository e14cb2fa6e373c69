"""ReferenceNet: the Backbone's spatial twin, run on clean pictures for features of identity and of motion (EMO 3.2).

The features are what goes into every self-attention (the output of norm1), as in the published checkpoints. Portrait
and motion frames do not mix in it, so their passes can be one or several: the portrait's is made once per avatar.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emo_live.config import BackboneConfig
from emo_live.models.backbone import Backbone, Conditions

Bank = dict[str, Tensor]  # layer name -> features


class ReferenceNet(Backbone):
    """A Backbone without output head, audio and temporal layers."""

    def __init__(self, config: BackboneConfig):
        assert config.out_channels is None, "a ReferenceNet has no output head: set out_channels=None"
        assert config.audio is None and config.motion is None, "a ReferenceNet sees single pictures and no sound"
        super().__init__(config)

    def features(self, latents: Tensor, tokens: Tensor | None = None) -> Bank:
        """latents: (B, C, h, w) clean -> layer name -> (B, h w, C). tokens: (B, L, D) for attn2, where it exists."""
        bank: Bank = {}
        time = torch.zeros(latents.shape[0], dtype=torch.long, device=latents.device)
        self(latents, time, Conditions(batch=latents.shape[0], tokens=tokens, write=bank))
        return bank
