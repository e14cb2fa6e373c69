"""EMO put together from a config: which network feeds which. Attribute names are those of published Hallo.

`Emo` is size-independent. `TinyEmo` adds what our motion latents need: folding, and a portrait encoder in the VAE's
place; latent_emo.py does the same for pictures in the latents of Stable Diffusion's VAE.
Shapes: latents (B, T, C, h, w); features of the portrait and of motion frames are banks: layer name -> tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import EmoConfig, TinyConfig
from emo_live.models.attention import repeat_rows
from emo_live.models.audio import AudioProjection, Scales
from emo_live.models.autoencoder import ConvBlock
from emo_live.models.backbone import Backbone, Conditions
from emo_live.models.locator import FaceLocator
from emo_live.models.reference_net import Bank, ReferenceNet
from emo_live.models.speed import SpeedEncoder

Masks = tuple[tuple[Tensor, Tensor, Tensor], ...]


@dataclass(frozen=True, slots=True)
class Portrait:
    """Everything about B avatars that does not change from window to window.

    code: (B, Cp, h, w) their latents; bank: their ReferenceNet features (B, h w, C) by layer, empty: not to be read;
    locator: (B, C, h, w); masks: per level (full, face, lip), each (B, h w); tokens: (B, L, D) of the face, for sizes
    that have a face projection. alone: how many of them, the first ones, read no reference; `bank` is of the others.
    """

    code: Tensor
    bank: Bank
    locator: Tensor
    masks: Masks
    tokens: Tensor | None = None
    alone: int = 0


class Emo(nn.Module):
    """The networks of one size and a denoising call that brings everything together."""

    def __init__(self, config: EmoConfig):
        super().__init__()
        self.config = config
        self.reference_unet = ReferenceNet(config.reference)
        self.denoising_unet = Backbone(config.backbone)
        self.face_locator = FaceLocator(config.locator)
        self.audioproj = AudioProjection(config.audio_projection)
        if config.speed is not None:
            self.speed_encoder = SpeedEncoder(config.speed)

    def reference_input(self, latents: Tensor, code: Tensor) -> Tensor:
        """Latents (B, n, C, h, w) of n clean pictures of B avatars -> the ReferenceNet's input, ((B n), C, h, w)."""
        return latents.flatten(0, 1)

    def audio_tokens(self, features: Tensor) -> Tensor:
        """(B, (T + 2m) blocks, D) sound features of T frames and m neighbours on each side -> (B, T, L, D) tokens."""
        projection = self.config.audio_projection
        out: Tensor = self.audioproj(frame_windows(features, projection.blocks, projection.frames // 2))
        return out

    def motion_bank(self, latents: Tensor, portrait: Portrait) -> Bank:
        """(B, n, C, h, w) latents of the motion frames -> their ReferenceNet features (B, n, h w, C) by layer."""
        batch, n = latents.shape[:2]
        tokens = None if portrait.tokens is None else repeat_rows(portrait.tokens, batch * n)
        bank = self.reference_unet.features(self.reference_input(latents, portrait.code), tokens)
        return {name: value.unflatten(0, (batch, n)) for name, value in bank.items()}

    def velocity(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        portrait: Portrait,
        motion: Bank | None,
        audio: Tensor | None,
        speed: Tensor | None,
        audio_scales: Scales = (1.0, 1.0, 1.0),
    ) -> Tensor:
        """One denoising call: the v-prediction, shaped like noisy.

        noisy: (B, T, C, h, w); timesteps: (B, T); motion: bank of (B, n, h w, C); audio: (B, T, L, D) tokens; speed:
        (B, T, D) features. None switches a part off: no audio while the image stage trains. audio_scales: strength of
        what the sound does to the whole picture, the face, the lips.
        """
        batch, frames = noisy.shape[:2]
        total = batch * frames

        def rows(x: Tensor) -> Tensor:
            return repeat_rows(x, total)

        sound = None if audio is None else audio.flatten(0, 1)
        backbone = self.config.backbone
        words = sound if portrait.tokens is None else rows(portrait.tokens)  # what attn2 reads
        given = Conditions(
            batch=batch,
            reference=portrait.bank or None,
            alone=portrait.alone * frames,
            motion=motion,
            tokens=words if backbone.context_width is not None else None,
            audio=sound if backbone.audio is not None else None,
            audio_scales=audio_scales,
            speed=speed,
            masks=tuple((rows(a), rows(b), rows(c)) for a, b, c in portrait.masks),
            locator=rows(portrait.locator),
        )
        out: Tensor = self.denoising_unet(noisy.flatten(0, 1), timesteps.flatten(), given)
        return out.unflatten(0, (batch, frames))


class PortraitEncoder(nn.Module):
    """(B, 3, 256, 256) in [-1, 1] -> (B, C, 8, 8): the portrait's part of the ReferenceNet's input."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3 * 64, 48, 3, padding=1),
                ConvBlock(48),
                nn.Conv2d(48, 96, 3, stride=2, padding=1),
                ConvBlock(96),
                nn.Conv2d(96, channels, 3, stride=2, padding=1),
                ConvBlock(channels),
            ]
        )

    def forward(self, portrait: Tensor) -> Tensor:
        x = F.pixel_unshuffle(portrait, 8)
        for layer in self.layers:
            x = layer(x)
        return x


class TinyEmo(Emo):
    """EMO on motion latents (B, T, 16, 16, 16), whose zero is the portrait itself."""

    def __init__(self, tiny: TinyConfig):
        super().__init__(tiny.emo)
        self.tiny = tiny
        self.portrait_encoder = PortraitEncoder(tiny.portrait_channels)

    def denoise(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        portrait: Portrait,
        motion: Bank | None,
        anchor: Tensor,
        audio: Tensor | None,
        speed: Tensor | None,
    ) -> Tensor:
        """`velocity` on deviations as they are, (B, T, C, h, w) in and out; anchor: latents that they deviate from."""
        seen = torch.cat([self.fold(noisy), self.fold(anchor)], 2)
        return self.unfold(self.velocity(seen, timesteps, portrait, motion, audio, speed))

    def fold(self, z: Tensor) -> Tensor:
        """(..., C, h, w) -> (..., C p^2, h / p, w / p)."""
        return F.pixel_unshuffle(z.flatten(0, -4), self.tiny.patch).unflatten(0, z.shape[:-3])

    def unfold(self, x: Tensor) -> Tensor:
        """(..., C p^2, h / p, w / p) -> (..., C, h, w)."""
        return F.pixel_shuffle(x.flatten(0, -4), self.tiny.patch).unflatten(0, x.shape[:-3])

    def prepare(self, portrait: Tensor, mask: Tensor) -> Portrait:
        """portrait: (B, 3, 256, 256) in [-1, 1]; mask: (B, 4, 128, 128) face, eyes, lips, inner lips in 0..1."""
        code = self.portrait_encoder(portrait)
        still = code.new_zeros(code.shape[0], self.config.reference.in_channels - code.shape[1], *code.shape[2:])
        bank = self.reference_unet.features(torch.cat([still, code], 1))
        masks = []
        for level in range(len(self.config.backbone.block_channels)):
            small = F.interpolate(mask, size=(code.shape[2] >> level, code.shape[3] >> level), mode="area")
            face, lip = small[:, 0].flatten(1), small[:, 2].flatten(1)
            masks.append((1 - face, face, lip * 2))  # lips fill a cell at most by half
        return Portrait(code, bank, self.face_locator(mask), tuple(masks))

    def reference_input(self, latents: Tensor, code: Tensor) -> Tensor:
        return torch.cat([self.fold(latents).flatten(0, 1), repeat_rows(code, latents.shape[0] * latents.shape[1])], 1)


def frame_windows(features: Tensor, per_frame: int, context: int) -> Tensor:
    """(B, (T + 2m) per_frame, D) sound features of T frames and m neighbours -> (B, T, 2m + 1, per_frame, D)."""
    frames = features.unflatten(1, (-1, per_frame))
    return frames.unfold(1, 2 * context + 1, 1).permute(0, 1, 4, 2, 3)
