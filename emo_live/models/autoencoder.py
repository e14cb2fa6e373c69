"""Motion autoencoder of the tiny model: flow and holes <-> motion latents, and the networks that paint from latents.

The latent is a whitened patch PCA of backward flow (px at flow_size) and hole share; zero is the portrait itself.
FlowDecoder refines the linear decoding; MouthPainter paints what the portrait cannot show. Warping happens outside, on
the portrait's own pixels, so identity, hair and background cannot drift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import AutoencoderConfig
from emo_live.models.layers import zeroed

HOLE_GAIN = 3.0  # how much a full hole weighs against a pixel of flow in the PCA
NOSE = (slice(0, 11), slice(8, 28))  # rows and columns of the mouth's square, of 36, where skin moves as the skull does
TOOTH_EDGES_PX = (0.0, 12.7, 20.9, 26.6, 31.8)  # from the middle, on average over 56 fitted heads


class MotionBasis(nn.Module):
    """Linear part, fitted, then frozen. basis: (3 patch^2, C), orthonormal columns; scale: (C,) standard deviations."""

    basis: Tensor
    scale: Tensor

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.patch = config.patch
        size = 3 * config.patch**2
        self.register_buffer("basis", torch.zeros(size, config.latent_channels))
        self.register_buffer("scale", torch.ones(config.latent_channels))

    def encode(self, motion: Tensor) -> Tensor:
        """(B, 3, H, W): flow x, y in px and hole share -> (B, C, h, w)."""
        gains = motion.new_tensor([1.0, 1.0, HOLE_GAIN])[:, None, None]
        patches = F.pixel_unshuffle(motion * gains, self.patch)  # channels ordered (3, patch, patch)
        return torch.einsum("bphw,pc->bchw", patches, self.basis) / self.scale[:, None, None]

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        patches = torch.einsum("bchw,pc->bphw", z * self.scale[:, None, None], self.basis)
        gains = z.new_tensor([1.0, 1.0, 1 / HOLE_GAIN])[:, None, None]
        return F.pixel_shuffle(patches, self.patch) * gains


class ConvBlock(nn.Module):
    """Residual pair of 3 x 3 convolutions without norms: exact in every runtime and quick on a CPU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class FirstConv(nn.Module):
    """A 3 x 3 convolution over what changes with every frame and, behind it, what a portrait looks like.

    The second part is the same for all frames: `once` computes its share, which `forward` adds.
    """

    def __init__(self, changing: int, staying: int, width: int):
        super().__init__()
        whole = nn.Conv2d(changing + staying, width, 3, padding=1)
        self.weight, self.bias, self.changing = whole.weight, whole.bias, changing

    def once(self, staying: Tensor) -> Tensor:
        return F.conv2d(staying, self.weight[:, self.changing :], self.bias, padding=1)

    def forward(self, changing: Tensor, share: Tensor) -> Tensor:
        """share: `once` of one portrait for all, or of one each."""
        return F.conv2d(changing, self.weight[:, : self.changing], padding=1) + share


class AppearanceEncoder(nn.Module):
    """What the decoder needs to know of the portrait, once per avatar.

    portrait (B, 3, 512, 512) in [-1, 1] -> features (B, Cr, 32, 32) for the flow and (B, Cr, 36, 36) of the mouth, for
    the `conv_in.once` of FlowDecoder and MouthPainter.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        width = config.reference_channels
        self.face = nn.ModuleList(
            [
                nn.Conv2d(3 * 64, 64, 3, padding=1),
                ConvBlock(64),
                nn.Conv2d(64, width, 3, stride=2, padding=1),
                ConvBlock(width),
            ]
        )
        self.mouth = nn.ModuleList([nn.Conv2d(3 * 16, width, 3, padding=1), ConvBlock(width), ConvBlock(width)])
        self.tone = nn.Linear(width, width)

    def forward(self, portrait: Tensor, mouth: Tensor) -> tuple[Tensor, Tensor]:
        """mouth: (B, 3, 144, 144), the square of the portrait that will be painted."""
        face = F.pixel_unshuffle(portrait, 8)
        for layer in self.face:
            face = layer(face)
        inside = F.pixel_unshuffle(mouth, 4)
        for layer in self.mouth:
            inside = layer(inside)
        tone = self.tone(face.mean((2, 3)))
        return face, inside + tone[:, :, None, None]


class FlowDecoder(nn.Module):
    """(B, C, 16, 16) latents, (B or 1, W, 32, 32) of the face by `conv_in.once` -> (B, 3, 128, 128) flow in px and hole
    share."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.basis = MotionBasis(config)
        self.latent_size = config.latent_size
        width = config.flow_width
        self.conv_in = FirstConv(48 + config.latent_channels, config.reference_channels, width)
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(config.flow_blocks))
        self.conv_out = zeroed(nn.Conv2d(width, 48, 3, padding=1))

    def forward(self, z: Tensor, reference: Tensor) -> Tensor:
        base = self.basis.decode(z)
        coarse = F.pixel_unshuffle(base, 4)
        codes = F.interpolate(z, scale_factor=2.0, mode="nearest")
        x = F.relu(self.conv_in(torch.cat([coarse, codes], 1), reference))
        for block in self.blocks:
            x = block(x)
        return base + F.pixel_shuffle(self.conv_out(F.relu(x)), 4)


class ToothEdges(nn.Module):
    """Where upper teeth meet in the mouth square: they move as the skull does, whatever lips and jaw do, which is what
    the skin beside and below the nose shows.

    motion (B, 3, S / 4, S / 4) of the square, middle (B,) px from its middle to between the two incisors in the
    portrait -> (B, 1, S, S), 1 where two teeth meet, falling to 0.
    """

    fit: Tensor
    axis: Tensor

    def __init__(self, side: int):
        super().__init__()
        cells = _centres(side // 4)
        y, x = (v[NOSE].flatten() for v in torch.meshgrid(cells, cells, indexing="ij"))
        self.register_buffer("fit", torch.linalg.pinv(torch.stack([torch.ones_like(x), x, y], 1)), persistent=False)
        self.register_buffer("axis", _centres(side), persistent=False)
        self.places = nn.Parameter(torch.tensor(TOOTH_EDGES_PX))
        self.width = nn.Parameter(torch.tensor(1.5))

    def forward(self, motion: Tensor, middle: Tensor | None = None) -> Tensor:
        # Products and sums, which stay float32 where matrix products would be rounded.
        flow = motion[:, 0, NOSE[0], NOSE[1]].flatten(1) * 4
        offset, along_x, along_y = (flow[:, None] * self.fit).sum(2)[..., None, None].unbind(1)  # of a plane
        across = offset + (len(self.axis) / 2 + along_x) * self.axis + along_y * self.axis[:, None]
        if middle is not None:
            across = across - middle[:, None, None]
        apart = across[:, None].abs() - self.places[:, None, None]
        return torch.exp(-0.5 * (apart / self.width).square()).sum(1, keepdim=True)


def _centres(count: int) -> Tensor:
    """(count,) middles of so many cells from -1 to 1."""
    return (torch.arange(count) + 0.5) / count * 2 - 1


class MouthPainter(nn.Module):
    """Paints the mouth square of the 512 px portrait.

    warped (B, 3, 144, 144) in [-1, 1]: the square after warping; motion (B, 3, 36, 36): its flow and holes; reference
    (B or 1, W, 36, 36): of the mouth by `conv_in.once` -> (B, 4, 144, 144): colour (about -1..1) and, in 0..1, how much
    of it to use.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        width = config.mouth_width
        self.conv_in = FirstConv(48 + 3, config.reference_channels, width)
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(config.mouth_blocks))
        self.conv_out = nn.Conv2d(width, 64, 3, padding=1)
        self.teeth = ToothEdges(config.mouth_size)
        self.teeth_conv_out = nn.Conv2d(width, 16, 3, padding=1)

    def forward(self, warped: Tensor, motion: Tensor, reference: Tensor, middle: Tensor | None = None) -> Tensor:
        """middle: of ToothEdges; live, incisors stand in the middle of the mouth."""
        x = F.relu(self.conv_in(torch.cat([F.pixel_unshuffle(warped, 4), motion], 1), reference))
        for block in self.blocks:
            x = block(x)
        out = F.pixel_shuffle(self.conv_out(F.relu(x)), 4)
        between = F.pixel_shuffle(self.teeth_conv_out(F.relu(x)), 4) * self.teeth(motion, middle)
        colour = out[:, :3] + between
        hole = F.interpolate(motion[:, 2:], scale_factor=4.0, mode="bilinear", align_corners=False)
        share = torch.sigmoid(out[:, 3:] + 6 * hole - 3)
        return torch.cat([colour, share], 1)


class Autoencoder(nn.Module):
    """The three trained parts together, as they are saved."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.appearance = AppearanceEncoder(config)
        self.flow = FlowDecoder(config)
        self.mouth = MouthPainter(config)

    def look(self, portrait: Tensor, mouth: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 512, 512), (B, 3, 144, 144) -> what `flow` and `mouth` take as their references."""
        face, inside = self.appearance(portrait, mouth)
        return self.flow.conv_in.once(face), self.mouth.conv_in.once(inside)
