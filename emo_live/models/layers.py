"""Small layers that several parts share: feed-forward, ResNet block, resampling, timestep embedding.

Shapes and parameter names are those of Stable Diffusion 1.5's UNet. Pictures are folded as ((B T), C, h, w).
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """A layer that starts as "nothing added"."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class GEGLU(nn.Module):
    """(..., D) -> (..., inner): value * gelu(gate), the two halves of one projection (exact GELU)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated feed-forward on (..., D); `net.1` is the checkpoints' dropout, which has no weights."""

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, width * factor), nn.Identity(), nn.Linear(width * factor, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width), cosines first (SD's flip_sin_to_cos, no frequency shift)."""
    rate = torch.exp(-math.log(10000.0) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], 1)


class TimestepMlp(nn.Module):
    """(B, D) embedded timesteps -> (B, out)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions with the timestep added between them."""

    def __init__(self, width: int, out: int, time_width: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=1e-5)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-5)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width, out, 1) if width != out else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B, C, h, w); time: (B, D), already through its activation -> (B, out, h, w)."""
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(time)[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Resample(nn.Module):
    """Halves the resolution by a strided convolution, or doubles it by nearest neighbours and a convolution."""

    def __init__(self, width: int, *, down: bool):
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
