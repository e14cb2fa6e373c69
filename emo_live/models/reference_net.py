"""ReferenceNet: the Backbone's spatial twin, run on clean pictures to collect features of identity and of motion (EMO 3.2).

One pass takes the portrait and the motion frames together; the features are the inputs of every self-attention (norm1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from emo_live.config import BackboneConfig
from emo_live.models.backbone import Backbone, Conditions

Bank = dict[str, Tensor]


class ReferenceNet(Backbone):
    def __init__(self, config: BackboneConfig):
        assert config.out_channels is None, "a ReferenceNet has no output head: set out_channels=None"
        super().__init__(config)

    def features(self, latents: Tensor, tokens: Tensor | None = None) -> Bank:
        """latents: (B, C, h, w) clean -> layer name -> (B, h w, C). tokens: (B, L, D) for attn2, where it exists."""
        bank: Bank = {}
        time = torch.zeros(latents.shape[0], dtype=torch.long, device=latents.device)
        self(latents, time, Conditions(batch=latents.shape[0], tokens=tokens, write=bank))
        return bank


def split_bank(bank: Bank, batch: int) -> tuple[Bank, Bank]:
    """Rows [(portrait, motion 1..n) x B] -> (portrait features (B, h w, C), motion features (B, n, h w, C)) by layer."""
    rows = {name: value.unflatten(0, (batch, -1)) for name, value in bank.items()}
    return {name: value[:, 0] for name, value in rows.items()}, {name: value[:, 1:] for name, value in rows.items()}
