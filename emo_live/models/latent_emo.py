"""EMO on pictures in the latents of Stable Diffusion's VAE: the sizes with published checkpoints (Hallo, EchoMimic).

The VAE, the face embedding and the sound features come from outside; so do the masks. What attn2 reads depends on the
size: tokens of the face embedding (Hallo), or the sound itself (EchoMimic).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from emo_live.config import EmoConfig, FaceProjectionConfig
from emo_live.models.emo import Emo, Masks, Portrait


class FaceProjection(nn.Module):
    """(B, width) embedding of a face, not normalised -> (B, L, D) tokens. Zeros mean "no face known"."""

    def __init__(self, config: FaceProjectionConfig):
        super().__init__()
        self.config = config
        self.proj = nn.Linear(config.width, config.tokens * config.token_width)
        self.norm = nn.LayerNorm(config.token_width)

    def forward(self, face: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(face).unflatten(-1, (self.config.tokens, self.config.token_width)))
        return out


class LatentEmo(Emo):
    """latents: (B, T, 4, h, w), the VAE's posterior mean times its scaling factor."""

    def __init__(self, config: EmoConfig):
        super().__init__(config)
        face = config.face_projection
        self.imageproj = FaceProjection(face) if face is not None else None

    def face_tokens(self, face: Tensor) -> Tensor | None:
        """(B, width) embedding -> (B, L, D), or None where the size has no face projection."""
        return None if self.imageproj is None else self.imageproj(face)

    def prepare(self, code: Tensor, region: Tensor, masks: Masks, face: Tensor) -> Portrait:
        """code: (B, 4, h, w) latents of the portrait; region: (B, C, H, W), where the face is; face: (B, width)."""
        tokens = self.face_tokens(face)
        bank = self.reference_unet.features(code, tokens)
        return Portrait(code, bank, self.face_locator(region), masks, tokens)

    def unconditional(self, portrait: Portrait) -> Portrait:
        """What guidance leads away from: no reference, no face locator, an unknown face. Motion frames stay; the sound
        is zeros, put in behind the projection."""
        tokens = portrait.tokens
        if self.imageproj is not None:
            tokens = self.imageproj(portrait.code.new_zeros(len(portrait.code), self.imageproj.config.width))
        return replace(portrait, bank={}, locator=portrait.locator.new_zeros(portrait.locator.shape), tokens=tokens)

    def with_guidance(self, portrait: Portrait) -> Portrait:
        """(B) -> (2 B): the unconditional rows, then the portrait's own, so that both are denoised in one call."""
        plain = self.unconditional(portrait)
        tokens = None
        if plain.tokens is not None and portrait.tokens is not None:
            tokens = torch.cat([plain.tokens, portrait.tokens])
        return Portrait(
            code=torch.cat([plain.code, portrait.code]),
            bank=portrait.bank,
            locator=torch.cat([plain.locator, portrait.locator]),
            masks=tuple((a.repeat(2, 1), b.repeat(2, 1), c.repeat(2, 1)) for a, b, c in portrait.masks),
            tokens=tokens,
            alone=len(portrait.code),
        )
