"""The Backbone: an SD-shaped UNet whose layers read the reference, the sound and the frames of the window (EMO 3.2).

Order in a layer: ResNet, spatial transformer (reference-attention), audio module, motion module. Frames are folded into
the batch: ((B T), C, h, w), with a timestep for every frame. Keys equal diffusers' SD 1.5 UNet and Hallo's extras.
It knows nothing about where the reference features come from: see reference_net.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import BackboneConfig
from emo_live.models.attention import Attention, FeedForward
from emo_live.models.audio import AudioModule
from emo_live.models.temporal import MotionModule


@dataclass(slots=True)
class Conditions:
    """What a pass through the Backbone may read; None switches that part off.

    reference: layer name -> (B or 1, h w, C) features of the portrait. motion: layer name -> (B, n, h w, C) features of the
    motion frames. tokens: ((B T), L, D) for attn2. audio: ((B T), L, D). masks: per level, three (B T or 1, h w).
    speed: (B, T, D). locator: ((B T) or 1, C, h, w), added after conv_in. write: filled with norm1 outputs by layer name.
    """

    batch: int = 1
    reference: Mapping[str, Tensor] | None = None
    motion: Mapping[str, Tensor] | None = None
    tokens: Tensor | None = None
    audio: Tensor | None = None
    masks: tuple[tuple[Tensor, ...], ...] = ()
    audio_scales: tuple[float, ...] = (1.0, 1.0, 1.0)
    speed: Tensor | None = None
    locator: Tensor | None = None
    write: dict[str, Tensor] | None = field(default=None)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width), cosines first (SD's flip_sin_to_cos, no frequency shift)."""
    rate = torch.exp(-math.log(10000.0) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], 1)


class TimestepMlp(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class ResnetBlock(nn.Module):
    def __init__(self, width: int, out: int, time_width: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=1e-5)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-5)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.conv_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B, C, h, w); time: (B, D), already through its activation."""
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(time)[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class SpatialBlock(nn.Module):
    def __init__(self, width: int, config: BackboneConfig):
        super().__init__()
        self.attn1 = Attention(width, config.heads)
        self.norm1 = nn.LayerNorm(width)
        if config.context_width is not None:
            self.attn2 = Attention(width, config.heads, config.context_width)
            self.norm2 = nn.LayerNorm(width)
        self.gain = config.context_gain
        self.ff = FeedForward(width, config.feed_forward_factor)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, name: str, given: Conditions) -> Tensor:
        y = self.norm1(x)
        if given.write is not None:
            given.write[name] = y
        x = self.attn1(y, extra=given.reference[name] if given.reference is not None else None) + x
        if given.tokens is not None and hasattr(self, "attn2"):
            x = self.attn2(self.norm2(x), given.tokens) * self.gain + x
        out: Tensor = self.ff(self.norm3(x)) + x
        return out


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, config: BackboneConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(width, config)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, name: str, given: Conditions) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, name, given)
        out: Tensor = x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[-2:]))
        return out


class Resample(nn.Module):
    def __init__(self, width: int, *, down: bool):
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Block(nn.Module):
    """One resolution on the way down or up, or the middle: lists of ResNets and of the layers that follow each.

    widths: (in, out) of each ResNet; inner: width inside each audio module; level: which mask size belongs here.
    """

    def __init__(
        self,
        name: str,
        widths: list[tuple[int, int]],
        inner: list[int],
        level: int,
        attends: bool,
        config: BackboneConfig,
        resample: str | None,
    ):
        super().__init__()
        self.name, self.level, self.attends = name, level, attends
        groups, factor, time_width = config.norm_groups, config.feed_forward_factor, config.block_channels[0] * 4
        self.resnets = nn.ModuleList(ResnetBlock(a, b, time_width, groups) for a, b in widths)
        outs = [b for _, b in widths][: len(inner)]  # the middle block has one ResNet more than other layers
        if attends:
            self.attentions = nn.ModuleList(SpatialTransformer(width, config) for width in outs)
            if config.audio is not None:
                audio = config.audio
                self.audio_modules = nn.ModuleList(
                    AudioModule(width, wide, config.heads, groups, audio, factor)
                    for width, wide in zip(outs, inner, strict=True)
                )
        self.motion_runs = config.motion is not None and (attends or config.motion.without_reference)
        if config.motion is not None:
            motion = config.motion
            self.motion_modules = nn.ModuleList(MotionModule(width, motion, groups, factor) for width in outs)
        if resample is not None:
            setattr(self, f"{resample}samplers", nn.ModuleList([Resample(outs[-1], down=resample == "down")]))

    def layer(self, i: int, x: Tensor, given: Conditions) -> Tensor:
        """What follows ResNet i."""
        if self.attends:
            name = f"{self.name}.attentions.{i}.transformer_blocks.0"
            x = self.attentions[i](x, name, given)
            if given.audio is not None:
                x = self.audio_modules[i](x, given.audio, given.masks[self.level], given.audio_scales)
            if self.motion_runs and given.write is None:
                motion = given.motion[name] if given.motion is not None else None
                x = self.motion_modules[i](x, given.batch, motion, given.speed)
        elif self.motion_runs and given.write is None:
            x = self.motion_modules[i](x, given.batch, None, given.speed)
        return x


class Backbone(nn.Module):
    """Predicts what the schedule asks for (v) from noisy latents ((B T), C, h, w) and per-frame timesteps ((B T),)."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        channels, groups = config.block_channels, config.norm_groups
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepMlp(channels[0], channels[0] * 4)
        self.down_blocks = nn.ModuleList()
        skips, width, last = [channels[0]], channels[0], len(channels) - 1
        for i, out in enumerate(channels):
            widths = [(width if j == 0 else out, out) for j in range(config.layers_per_block)]
            self.down_blocks.append(
                Block(
                    f"down_blocks.{i}",
                    widths,
                    [a for a, _ in widths],
                    i,
                    config.attention_levels[i],
                    config,
                    "down" if i < last else None,
                )
            )
            skips += [out] * (config.layers_per_block + (i < last))
            width = out
        self.mid_block = Block("mid_block", [(width, width)] * 2, [width], last, True, config, None)
        self.up_blocks = nn.ModuleList()
        for i, out in enumerate(reversed(channels)):
            widths = []
            for _ in range(config.layers_per_block + 1):
                widths.append((width + skips.pop(), out))
                width = out
            inner = channels[max(last - i - 1, 0)]
            self.up_blocks.append(
                Block(
                    f"up_blocks.{i}",
                    widths,
                    [inner] * len(widths),
                    last - i,
                    config.attention_levels[last - i],
                    config,
                    "up" if i < last else None,
                )
            )
        if config.out_channels is not None:
            self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=1e-5)
            self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        time = F.silu(self.time_embedding(timestep_embedding(timesteps, self.config.block_channels[0]).to(x.dtype)))
        x = self.conv_in(x)
        if given.locator is not None:
            x = x + given.locator
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = block.layer(i, resnet(x, time), given)
                skips.append(x)
            for sampler in getattr(block, "downsamplers", ()):
                x = sampler(x)
                skips.append(x)
        x = self.mid_block.layer(0, self.mid_block.resnets[0](x, time), given)
        x = self.mid_block.resnets[1](x, time)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = block.layer(i, resnet(torch.cat([x, skips.pop()], 1), time), given)
            for sampler in getattr(block, "upsamplers", ()):
                x = sampler(x)
        if self.config.out_channels is None:
            return x
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out
