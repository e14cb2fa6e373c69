"""Speed layers' input: head velocity -> soft bucket memberships -> features for the temporal layers (EMO 3.2).

The cross-attention that reads them lives in temporal.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emo_live.config import SpeedConfig


class SpeedEncoder(nn.Module):
    """Buckets of head velocity, each with a centre and a radius; every frame also sees its neighbours' memberships."""

    centres: Tensor
    radii: Tensor

    def __init__(self, config: SpeedConfig):
        super().__init__()
        self.context = config.context
        self.register_buffer("centres", torch.tensor(config.centres))
        self.register_buffer("radii", torch.tensor(config.radii))
        wide = (2 * config.context + 1) * len(config.centres)
        self.mlp = nn.ModuleList([nn.Linear(wide, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.width)])

    def buckets(self, velocity: Tensor) -> Tensor:
        """(B, T) degrees a second -> (B, T, d) in -1..1: EMO's s_i, -1 below a bucket, 0 at its centre, 1 above it."""
        return torch.tanh((velocity.unsqueeze(-1) - self.centres) / self.radii * 3)

    def forward(self, velocity: Tensor) -> Tensor:
        """(B, T + 2m) degrees a second, m neighbours on each side included -> (B, T, D)."""
        x = self.buckets(velocity).unfold(1, 2 * self.context + 1, 1).transpose(2, 3).flatten(2)  # (B, T, (2m + 1) d)
        for layer in self.mlp:
            x = layer(x)
        return x
