"""What a face does besides speaking: head pose, brows, lids and gaze, drawn from noise.

A frame depends on the noise of the frames up to it and on nothing before, so that frame `index` of a seed moves the
same whatever the windows are. Gated dilated convolutions over time (1609.03499).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import POSE, GesturesConfig
from emo_live.models.hearing import UNHEARD

GESTURES = UNHEARD.stop + POSE  # ARKit weights first
SPEED_SCALE = 5.0  # degrees a second


class Gestures(nn.Module):
    """noise (B, reach + T, N), speed (B,) degrees a second -> (B, T, GESTURES)."""

    mean: Tensor
    spread: Tensor
    smoothing: Tensor
    inertia: Tensor

    def __init__(self, config: GesturesConfig):
        super().__init__()
        width = config.width
        self.conv_in = nn.Conv1d(config.noise + 1, width, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width, config.kernel, dilation=dilation) for dilation in config.dilations
        )
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in config.dilations)
        self.conv_out = nn.Sequential(nn.Conv1d(width, width, 1), nn.SiLU(), nn.Conv1d(width, GESTURES, 1))
        noise = torch.stack([_smooth(memory, config.taps) for memory in config.memories])
        self.register_buffer("smoothing", (noise / noise.norm(dim=1, keepdim=True))[:, None], persistent=False)
        head = _smooth(config.inertia, config.inertia_taps)
        self.register_buffer("inertia", (head / head.sum()).expand(POSE, 1, -1).clone(), persistent=False)
        self.register_buffer("mean", torch.zeros(GESTURES))
        self.register_buffer("spread", torch.ones(GESTURES))

    def forward(self, noise: Tensor, speed: Tensor) -> Tensor:
        smooth = F.conv1d(noise.transpose(1, 2), self.smoothing, groups=noise.shape[2])
        pace = (speed / SPEED_SCALE)[:, None, None].expand(-1, 1, smooth.shape[2])
        x = self.conv_in(torch.cat([smooth, pace], 1))
        for layer, mix in zip(self.layers, self.mix, strict=True):
            value, gate = layer(x).chunk(2, 1)
            kept = x[:, :, x.shape[2] - value.shape[2] :]
            x = kept + mix(torch.tanh(value) * torch.sigmoid(gate))
        drawn = self.conv_out(x)
        pose = F.conv1d(drawn[:, -POSE:], self.inertia, groups=POSE)
        face = drawn[:, :-POSE, drawn.shape[2] - pose.shape[2] :]
        return self.mean + self.spread * torch.cat([face, pose], 1).transpose(1, 2)


def _smooth(memory: float, taps: int) -> Tensor:
    """(taps,) newest last: a critically damped low-pass, for heads have mass. memory 0: the newest as it is."""
    age = torch.arange(taps - 1, -1, -1.0)
    return (age + 1) * torch.exp(-age / memory) if memory else (age == 0).float()
