"""Hallo and Hallo2 (one layout, `net.pth`), and JoyHallo: configs, and what the published pipeline does under guidance.

The keys of `net.pth` are those of LatentEmo(HALLO): nothing has to be renamed. Sources: arXiv 2406.08801 and the
published inference code (MIT); facts checked by tests/golden. The functions here are habits of that pipeline, for
parity only: with guidance it deals face tokens and reference features out to the wrong rows (`published_tokens`,
`published_banks`; LatentEmo gives every row its own), and it makes motion frames from pixels (`carried` and below).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from emo_live.config import (
    AudioAttentionConfig,
    AudioProjectionConfig,
    EmoConfig,
    FaceLocatorConfig,
    FaceProjectionConfig,
)
from emo_live.models.checkpoints import sd15
from emo_live.models.reference_net import Bank
from emo_live.models.vae import PictureCodec

HALLO = EmoConfig(
    name="hallo",
    backbone=replace(
        sd15.UNET,
        out_channels=4,
        context_width=768,
        audio=AudioAttentionConfig(width=768, shared=False, self_attention=True),
        # Its five motion modules in blocks without attention are in the file, and were never run.
        motion=replace(sd15.MOTION, without_reference=False),
    ),
    reference=replace(sd15.UNET, context_width=768),
    locator=FaceLocatorConfig(in_channels=3, block_channels=(16, 32, 64, 128), out_channels=320),
    audio_projection=AudioProjectionConfig(frames=5, blocks=12, width=768, hidden=512, tokens=32, token_width=768),
    face_projection=FaceProjectionConfig(width=512, tokens=4, token_width=768),
    speed=None,
    schedule=sd15.SCHEDULE,
    motion_frames=2,
    audio_look_ahead=2,
)

JOYHALLO = replace(
    HALLO,
    name="joyhallo",
    backbone=replace(HALLO.backbone, audio=AudioAttentionConfig(width=768, shared=True, self_attention=True)),
)


def published_tokens(unconditional: Tensor, conditional: Tensor, pictures: int) -> Tensor:
    """(1, L, D) face tokens of both halves -> (2 pictures, L, D), alternating, for the ReferenceNet's rows.

    The rows are [portrait, motion 1..n] of the unconditional half, then of the conditional one.
    """
    return torch.cat([unconditional, conditional]).repeat(pictures, 1, 1)


def published_banks(bank: Bank, frames: int) -> tuple[Bank, Bank, Bank]:
    """Features of those rows -> reference (T, h w, C) of the conditional half, motion (1, n, h w, C) of each half.

    Row r of (halves, frames) reads portrait r mod 2, so every other frame reads the unconditional half's. The
    unconditional half itself reads none.
    """
    halves = {name: rows.unflatten(0, (2, -1)) for name, rows in bank.items()}  # (2, 1 + n, h w, C)
    turns = [(frames + i) % 2 for i in range(frames)]
    reference = {name: rows[turns, 0] for name, rows in halves.items()}
    unconditional, conditional = ({name: rows[[half], 1:] for name, rows in halves.items()} for half in (0, 1))
    return reference, unconditional, conditional


def carried(codec: PictureCodec, latents: Tensor) -> Tensor:
    """(n, 4, h, w) latents of frames that were shown -> of the same frames as the next window's motion frames.

    The published pipeline makes them from the pictures. Ours carries the latents, which saves the encoder.
    """
    return codec.encode(codec.decode(latents))


def with_pixels_dropped(motion: Tensor, region: Tensor, chance: Tensor, rate: float = 0.25) -> Tensor:
    """Hallo2, against drift: (n, 3, H, W) motion frames in [-1, 1], grey wherever chance <= rate outside the face.

    region: (H, W) or (3, H, W), over 0 in the face's box; chance: (H, W), uniform in 0..1, one draw for all frames. The
    portrait stays as it is; the first window's motion frames (copies of it) do not.
    """
    return motion * ((chance > rate) | (region > 0))


def published_draws(
    generator: torch.Generator, latents: tuple[int, ...], drop_px: int | None = None
) -> tuple[Tensor | None, Tensor]:
    """What a window of the published pipelines draws: Hallo2's `chance` (drop_px, drop_px), and the latents' noise.

    Hallo draws noise only. Hallo2's map comes from the same generator, so that the noise of a seed is another one, from
    the first window on. The map comes first: pictures are made ready before the window is sampled.
    """
    chance = None if drop_px is None else torch.rand((drop_px, drop_px), generator=generator)
    return chance, torch.randn(latents, generator=generator)
