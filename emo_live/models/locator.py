"""Face locator: a mask of where the face is -> features added to the noisy latents behind conv_in (EMO 3.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import FaceLocatorConfig
from emo_live.models.layers import zeroed


class FaceLocator(nn.Module):
    """Convolutions only, SiLU between them; starts as "nothing added"."""

    def __init__(self, config: FaceLocatorConfig):
        super().__init__()
        channels = config.block_channels
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for a, b in zip(channels[:-1], channels[1:], strict=True):
            self.blocks.append(nn.Conv2d(a, a, 3, padding=1))
            self.blocks.append(nn.Conv2d(a, b, 3, padding=1, stride=2))
        self.conv_out = zeroed(nn.Conv2d(channels[-1], config.out_channels, 3, padding=1))

    def forward(self, mask: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> (B, D, h, w) at the resolution of the latents."""
        x = F.silu(self.conv_in(mask))
        for block in self.blocks:
            x = F.silu(block(x))
        out: Tensor = self.conv_out(x)
        return out
