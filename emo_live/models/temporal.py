"""Temporal layers: self-attention along the frames of a window, motion frames first (EMO 3.2; AnimateDiff layout).

Works on pictures folded as ((B T), C, h, w); group norm is per picture, as in AnimateDiff and Hallo (diffusers' block
normalises over all frames). Motion frames join on the frame axis at the layer's own resolution and are cut off behind
it. Speed layers are a cross-attention to the velocity features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emo_live.config import MotionModuleConfig
from emo_live.models.attention import Attention
from emo_live.models.layers import FeedForward, zeroed


class PositionCodes(nn.Module):
    """Sinusoidal codes, a buffer named `pe` (1, max_frames, D) as in published motion modules."""

    pe: Tensor

    def __init__(self, width: int, max_frames: int):
        super().__init__()
        position = torch.arange(max_frames).unsqueeze(1)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        pe = torch.zeros(1, max_frames, width)
        pe[0, :, 0::2] = torch.sin(position * rate)
        pe[0, :, 1::2] = torch.cos(position * rate)
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> the same, each frame with its code."""
        return x + self.pe[:, : x.shape[1]].to(x.dtype)


class TemporalAttention(Attention):
    """Self-attention along the frames: positions are added to what it reads, not to what it leaves untouched."""

    def __init__(self, width: int, heads: int, max_frames: int):
        super().__init__(width, heads)
        self.pos_encoder = PositionCodes(width, max_frames)

    def forward(self, x: Tensor, context: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        return super().forward(self.pos_encoder(x), context, extra)


class TemporalBlock(nn.Module):
    """Self-attentions along the frames, the speed layer where the size has one, feed-forward."""

    def __init__(self, width: int, config: MotionModuleConfig, factor: int):
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(width, config.heads, config.max_frames) for _ in range(config.attention_blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.attention_blocks))
        if config.speed_width is not None:
            self.speed_attention = Attention(width, config.heads, config.speed_width)
            self.speed_norm = nn.LayerNorm(width)
            nn.init.zeros_(self.speed_attention.get_parameter("to_out.0.weight"))
        self.ff = FeedForward(width, factor)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, speed: Tensor | None) -> Tensor:
        """x: ((B h w), n + T, C); speed: (B, T, D) or None."""
        for attend, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = attend(norm(x)) + x
        if speed is not None:
            # every place of a picture reads the same few keys: places join the query axis, the keys are not repeated
            query = self.speed_norm(x).unflatten(0, (speed.shape[0], -1)).flatten(1, 2)
            x = self.speed_attention(query, speed).view_as(x) + x
        out: Tensor = self.ff(self.ff_norm(x)) + x
        return out


class TemporalTransformer(nn.Module):
    """What a motion module adds to its input; zero before training."""

    def __init__(self, width: int, config: MotionModuleConfig, groups: int, factor: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width, config, factor)])
        self.proj_out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, batch: int, speed: Tensor | None) -> Tensor:
        """((B N), C, h, w), N = n + T frames -> (B, N, C, h, w)."""
        places = x.shape[-2:]
        tokens = self.norm(x).unflatten(0, (batch, -1)).permute(0, 3, 4, 1, 2).flatten(0, 2)  # ((B h w), N, C)
        tokens = self.proj_in(tokens.contiguous())  # a linear layer on a view takes its rows one by one
        for block in self.transformer_blocks:
            tokens = block(tokens, speed)
        out: Tensor = self.proj_out(tokens).unflatten(0, (batch, *places)).permute(0, 3, 4, 1, 2)
        return out


class MotionModule(nn.Module):
    """Joins the motion frames, lets the frames read each other, cuts the motion frames off again."""

    def __init__(self, width: int, config: MotionModuleConfig, groups: int, factor: int):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width, config, groups, factor)

    def forward(self, x: Tensor, batch: int, motion: Tensor | None, speed: Tensor | None) -> Tensor:
        """x: ((B T), C, h, w); motion: (B, n, h w, C) features of the motion frames; speed: (B, T, D)."""
        if motion is None:
            return x + self.temporal_transformer(x, batch, speed).flatten(0, 1)
        maps = motion.transpose(2, 3).unflatten(3, x.shape[-2:])  # (B, n, C, h, w)
        frames = torch.cat([maps, x.unflatten(0, (batch, -1))], 1).flatten(0, 1)
        return x + self.temporal_transformer(frames, batch, speed)[:, motion.shape[1] :].flatten(0, 1)
