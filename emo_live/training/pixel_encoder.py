"""Motion latents from pixels: what a real clip's frame does to its portrait. Only training on clips needs it.

A dense optical flow (DIS, OpenCV) finds the bulk of the motion without learning; PixelEncoder corrects it and sees what
a flow cannot: holes. Pictures are (B, 3, 256, 256) in [-1, 1]; flow is backward, in px of 128, as in the latents.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import AutoencoderConfig
from emo_live.models.autoencoder import ConvBlock, MotionBasis
from emo_live.models.layers import zeroed
from emo_live.training.autoencoder import sampling_grid, warp
from emo_live.types import Float32, UInt8

SIDE = 256
WIDTHS = (32, 80, 112)  # channels at 64, 32 and 16 px
BATCH = 16


class PixelEncoder(nn.Module):
    """portrait, frame, rough flow (B, 2, 128, 128) from the one to the other -> z (B, C, 16, 16)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.basis = MotionBasis(config)
        fine, middle, coarse = WIDTHS
        self.conv_in = nn.Conv2d(6 * 16 + 2 * 4, fine, 3, padding=1)
        self.down1 = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.blocks1 = nn.ModuleList(ConvBlock(middle) for _ in range(3))
        self.down2 = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.join = nn.Conv2d(coarse + config.latent_channels, coarse, 3, padding=1)
        self.blocks2 = nn.ModuleList(ConvBlock(coarse) for _ in range(2))
        self.conv_out = zeroed(nn.Conv2d(coarse, config.latent_channels, 3, padding=1))

    def forward(self, portrait: Tensor, frame: Tensor, flow: Tensor) -> Tensor:
        still = flow - flow.mean((2, 3), keepdim=True)  # wherever the head is, the same is wrong with its flow
        warped = warp(portrait, sampling_grid(flow, portrait.shape[-1]))
        pictures = F.pixel_unshuffle(torch.cat([frame, frame - warped], 1), 4)
        x = F.relu(self.conv_in(torch.cat([pictures, F.pixel_unshuffle(still / 4, 2)], 1)))
        x = self.down1(x)
        for block in self.blocks1:
            x = block(x)
        x = self.join(torch.cat([self.down2(F.relu(x)), self._without_holes(still)], 1))
        for block in self.blocks2:
            x = block(x)
        out: Tensor = self._without_holes(flow) + self.conv_out(F.relu(x))
        return out

    def _without_holes(self, flow: Tensor) -> Tensor:
        return self.basis.encode(torch.cat([flow, torch.zeros_like(flow[:, :1])], 1))


class RoughFlow:
    """Dense inverse search (Kroeger et al. 2016) on grey pictures: backward flow from a frame into its portrait."""

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._search.setFinestScale(1)  # flow is wanted at half the pictures' size

    def __call__(self, portrait: UInt8, frame: UInt8) -> Float32:
        """(256, 256, 3) each -> (2, 128, 128) px of 128."""
        grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (frame, portrait)]
        flow = self._search.calc(grey[0], grey[1], np.zeros((SIDE, SIDE, 2), np.float32))
        half = cv2.resize(flow, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA) / 2
        return np.ascontiguousarray(half.transpose(2, 0, 1), np.float32)

    def of_batch(self, portraits: Tensor, frames: Tensor) -> Tensor:
        """(B, 3, 256, 256) in [-1, 1] each -> (B, 2, 128, 128)."""
        pairs = zip(as_pixels(portraits), as_pixels(frames), strict=True)
        return torch.from_numpy(np.stack([self(portrait, frame) for portrait, frame in pairs])).to(frames.device)


def as_pixels(pictures: Tensor) -> UInt8:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    rows = ((pictures.detach().clamp(-1, 1) + 1) * 127.5 + 0.5).byte().permute(0, 2, 3, 1).contiguous()
    return np.asarray(rows.cpu().numpy(), np.uint8)


def as_pictures(pixels: UInt8) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [-1, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def half_size(portraits: Tensor) -> Tensor:
    """(B, 3, 512, 512) -> (B, 3, 256, 256)."""
    return F.interpolate(portraits, scale_factor=0.5, mode="area")


@torch.no_grad()
def encode_frames(encoder: PixelEncoder, portrait: UInt8, frames: UInt8) -> Float32:
    """portrait (256, 256, 3), frames (T, 256, 256, 3) -> z (T, C, 16, 16)."""
    rough, parts = RoughFlow(), []
    still = as_pictures(portrait[None])
    for start in range(0, len(frames), BATCH):
        moving = as_pictures(frames[start : start + BATCH])
        stills = still.expand(len(moving), -1, -1, -1)
        parts.append(encoder(stills, moving, rough.of_batch(stills, moving)).float())
    return torch.cat(parts).numpy()
