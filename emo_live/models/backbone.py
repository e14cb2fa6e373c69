"""The Backbone: an SD-shaped UNet whose layers read the reference, the sound and the frames of the window (EMO 3.2).

Order in a layer: ResNet, spatial transformer (reference-attention), audio module, motion module. Frames are folded into
the batch: ((B T), C, h, w), with a timestep for every frame. Keys equal diffusers' SD 1.5 UNet and Hallo's extras.
It knows nothing about where the reference features come from: see reference_net.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from emo_live.config import BackboneConfig
from emo_live.models.attention import Attention
from emo_live.models.audio import AudioModule, Scales
from emo_live.models.layers import FeedForward, Resample, ResnetBlock, TimestepMlp, timestep_embedding
from emo_live.models.temporal import MotionModule


@dataclass(slots=True)
class Conditions:
    """What a pass through the Backbone may read; None switches that part off.

    reference: layer name -> (1, B or B T, h w, C) features of the portrait, which all pictures but the first `alone`
    read. motion: layer name -> (B, n, h w, C) features of the motion frames. tokens: ((B T), L, D) for attn2. audio:
    ((B T), L, D). masks: per level full, face, lip, each (B T or 1, h w); audio_scales: how strongly each of them
    moves. speed: (B, T, D). locator: added behind conv_in, (B T or 1, C, h, w). write: filled with norm1 outputs by
    layer name.
    """

    batch: int = 1
    reference: Mapping[str, Tensor] | None = None
    alone: int = 0
    motion: Mapping[str, Tensor] | None = None
    tokens: Tensor | None = None
    audio: Tensor | None = None
    masks: tuple[tuple[Tensor, ...], ...] = ()
    audio_scales: Scales = (1.0, 1.0, 1.0)
    speed: Tensor | None = None
    locator: Tensor | None = None
    write: dict[str, Tensor] | None = None


class SpatialBlock(nn.Module):
    """attn1: places of a picture read each other and the reference; attn2 reads the tokens, where the size has it."""

    def __init__(self, width: int, config: BackboneConfig):
        super().__init__()
        self.attn1 = Attention(width, config.heads)
        self.norm1 = nn.LayerNorm(width)
        reads = config.context_width is not None
        self.attn2 = Attention(width, config.heads, config.context_width) if reads else None
        self.norm2 = nn.LayerNorm(width) if reads else None
        self.gain = config.context_gain
        self.ff = FeedForward(width, config.feed_forward_factor)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, name: str, given: Conditions) -> Tensor:
        """x: ((B T), h w, C)."""
        y = self.norm1(x)
        if given.write is not None:
            given.write[name] = y
        x = self._looks(y, given.reference[name] if given.reference is not None else None, given.alone) + x
        if self.attn2 is not None and self.norm2 is not None:
            assert given.tokens is not None, "attn2 needs tokens: this size reads them in every spatial layer"
            read = self.attn2(self.norm2(x), given.tokens)
            x = (read if self.gain == 1 else read * self.gain) + x
        out: Tensor = self.ff(self.norm3(x)) + x
        return out

    def _looks(self, y: Tensor, reference: Tensor | None, alone: int) -> Tensor:
        """attn1; the first `alone` rows do without the reference."""
        if reference is None or not alone:
            return self.attn1(y, extra=reference)
        return torch.cat([self.attn1(y[:alone]), self.attn1(y[alone:], extra=reference)])


class SpatialTransformer(nn.Module):
    """A SpatialBlock on pictures ((B T), C, h, w)."""

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


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a block lies: its name in the checkpoint, (in, out) channels of each ResNet, and its layers.

    layers: (channels, width inside the audio module) of what follows each ResNet; level: which mask size belongs here;
    attends: whether there are spatial transformers (and audio modules).
    """

    name: str
    resnets: tuple[tuple[int, int], ...]
    layers: tuple[tuple[int, int], ...]
    level: int
    attends: bool


class Block(nn.Module):
    """ResNets of one resolution, and what follows each of them.

    recompute: what a layer computes on the way is not kept for the gradient but made again, for memory.
    """

    recompute = False

    def __init__(self, stage: Stage, config: BackboneConfig):
        super().__init__()
        self.stage = stage
        groups, factor, time_width = config.norm_groups, config.feed_forward_factor, config.block_channels[0] * 4
        self.resnets = nn.ModuleList(ResnetBlock(a, b, time_width, groups) for a, b in stage.resnets)
        if stage.attends:
            self.attentions = nn.ModuleList(SpatialTransformer(width, config) for width, _ in stage.layers)
            if config.audio is not None:
                audio = config.audio
                self.audio_modules = nn.ModuleList(
                    AudioModule(width, inner, config.heads, groups, audio, factor) for width, inner in stage.layers
                )
        self.moves = False
        if config.motion is not None:
            motion = config.motion
            self.moves = stage.attends or motion.without_reference
            outs = [width for width, _ in stage.layers]
            self.motion_modules = nn.ModuleList(MotionModule(width, motion, groups, factor) for width in outs)

    def layer(self, i: int, x: Tensor, given: Conditions) -> Tensor:
        """What follows ResNet i."""
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._layer, i, x, given, use_reentrant=False)
            return out
        return self._layer(i, x, given)

    def _layer(self, i: int, x: Tensor, given: Conditions) -> Tensor:
        motion = None
        if self.stage.attends:
            name = f"{self.stage.name}.attentions.{i}.transformer_blocks.0"
            x = self.attentions[i](x, name, given)
            if given.audio is not None:
                x = self.audio_modules[i](x, given.audio, given.masks[self.stage.level], given.audio_scales)
            motion = given.motion[name] if given.motion is not None else None
        if self.moves:
            x = self.motion_modules[i](x, given.batch, motion, given.speed)
        return x


class DownBlock(Block):
    """One resolution on the way down; `down`: it ends at half of it."""

    def __init__(self, stage: Stage, config: BackboneConfig, *, down: bool):
        super().__init__(stage, config)
        self.downsamplers = nn.ModuleList([Resample(stage.layers[-1][0], down=True)]) if down else None

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor], given: Conditions) -> Tensor:
        """Appends to `skips` what the way up will read."""
        for i, resnet in enumerate(self.resnets):
            x = self.layer(i, resnet(x, time), given)
            skips.append(x)
        for sampler in self.downsamplers or ():
            x = sampler(x)
            skips.append(x)
        return x


class MidBlock(Block):
    """ResNet, one layer, ResNet."""

    def forward(self, x: Tensor, time: Tensor, given: Conditions) -> Tensor:
        x = self.layer(0, self.resnets[0](x, time), given)
        out: Tensor = self.resnets[1](x, time)
        return out


class UpBlock(Block):
    """One resolution on the way up; `up`: it ends at twice of it."""

    def __init__(self, stage: Stage, config: BackboneConfig, *, up: bool):
        super().__init__(stage, config)
        self.upsamplers = nn.ModuleList([Resample(stage.layers[-1][0], down=False)]) if up else None

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor], given: Conditions) -> Tensor:
        """Takes from the end of `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = self.layer(i, resnet(torch.cat([x, skips.pop()], 1), time), given)
        for sampler in self.upsamplers or ():
            x = sampler(x)
        return x


def down_stages(config: BackboneConfig) -> list[Stage]:
    """Inside an audio module the width is the one that comes into its ResNet, as in published Hallo."""
    stages, width = [], config.block_channels[0]
    for i, out in enumerate(config.block_channels):
        resnets = [(width if j == 0 else out, out) for j in range(config.layers_per_block)]
        layers = [(out, come) for come, _ in resnets]
        stages.append(Stage(f"down_blocks.{i}", tuple(resnets), tuple(layers), i, config.attention_levels[i]))
        width = out
    return stages


def up_stages(config: BackboneConfig) -> list[Stage]:
    """Inside the audio modules of a block the width is the one of the next block up, as in published Hallo."""
    channels, last = config.block_channels, len(config.block_channels) - 1
    skips = [channels[0]]
    for i, out in enumerate(channels):
        skips += [out] * (config.layers_per_block + (i < last))
    stages, width = [], channels[-1]
    for i, out in enumerate(reversed(channels)):
        resnets = []
        for _ in range(config.layers_per_block + 1):
            resnets.append((width + skips.pop(), out))
            width = out
        layers = [(out, channels[max(last - i - 1, 0)])] * len(resnets)
        level = last - i
        stages.append(Stage(f"up_blocks.{i}", tuple(resnets), tuple(layers), level, config.attention_levels[level]))
    return stages


class Backbone(nn.Module):
    """Predicts what the schedule asks for (v) from noisy latents, with a timestep for every frame."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        channels, last = config.block_channels, len(config.block_channels) - 1
        width = channels[-1]
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepMlp(channels[0], channels[0] * 4)
        self.down_blocks = nn.ModuleList(DownBlock(s, config, down=s.level < last) for s in down_stages(config))
        middle = Stage("mid_block", ((width, width),) * 2, ((width, width),), last, attends=True)
        self.mid_block = MidBlock(middle, config)
        self.up_blocks = nn.ModuleList(UpBlock(s, config, up=s.level > 0) for s in up_stages(config))
        if config.out_channels is not None:
            self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[0], eps=1e-5)
            self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def drop_unused(self) -> None:
        """Removes the motion modules that never run (published Hallo has five), once the weights are loaded."""
        for block in (*self.down_blocks, *self.up_blocks):
            if self.config.motion is not None and not block.moves:
                del block.motion_modules

    def forward(self, x: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        """x: ((B T), C, h, w); timesteps: ((B T),) -> ((B T), out_channels, h, w), or x's features without a head."""
        time = F.silu(self.time_embedding(timestep_embedding(timesteps, self.config.block_channels[0]).to(x.dtype)))
        x = self.conv_in(x)
        if given.locator is not None:
            x = x + given.locator
        skips = [x]
        for block in self.down_blocks:
            x = block(x, time, skips, given)
        x = self.mid_block(x, time, given)
        for block in self.up_blocks:
            x = block(x, time, skips, given)
        if self.config.out_channels is None:
            return x
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out
