"""How much memory a published size needs, said before anything of it is loaded.

Weights are counted exactly, on torch's meta device, activations by what is alive at the widest point: the gated
feed-forward of the finest level. It knows nothing of what else lies on the card.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

from emo_live.config import EmoConfig
from emo_live.models.latent_emo import LatentEmo

# Weights of the parts around EMO: Stable Diffusion's VAE, TAESD, wav2vec2-base, four layers of whisper-tiny's encoder.
CODEC_WEIGHTS = {"sd": 83_653_863, "taesd": 2_445_063}
WAV2VEC_WEIGHTS, WHISPER_WEIGHTS = 94_371_712, 8_207_616
# Values alive at once a pixel of the picture while a codec decodes, or encodes, which takes a little less.
CODEC_VALUES_PER_PX = {"sd": 769, "taesd": 200}
# A CUDA context with its kernels, workspaces of cuDNN and cuBLAS, and what the allocator cannot reuse.
RUNTIME_BYTES = 700_000_000


@cache
def weight_count(config: EmoConfig) -> int:
    """Values of LatentEmo(config) after Backbone.drop_unused. Takes seconds for published sizes, once."""
    with torch.device("meta"):
        model = LatentEmo(config)
    model.denoising_unet.drop_unused()
    return sum(value.numel() for value in model.state_dict().values())


def bank_values(config: EmoConfig, size_px: int) -> int:
    """Values of one picture's ReferenceNet features: as many as go into its self-attentions."""
    backbone, side = config.reference, size_px // 8
    levels = [
        width * (side >> level) ** 2 * (2 * backbone.layers_per_block + 1)
        for level, width in enumerate(backbone.block_channels)
        if backbone.attention_levels[level]
    ]
    last = len(backbone.block_channels) - 1
    return sum(levels) + backbone.block_channels[-1] * (side >> last) ** 2


def denoising_values(config: EmoConfig, size_px: int, frames: int, batch: int) -> int:
    """Values alive at once in one denoising call, without banks. All in units of the finest level's feature maps.

    A gated feed-forward holds its projection (two factors), the activated gate and the product (one each), over the
    motion frames too; skips, residuals, the locator and what is being made are 14 more.
    """
    backbone = config.backbone
    unit = backbone.block_channels[0] * (size_px // 8) ** 2
    return batch * unit * (4 * backbone.feed_forward_factor * (frames + config.motion_frames) + 14 * frames)


def memory_need(
    config: EmoConfig,
    dtype: torch.dtype,
    size_px: int,
    frames: int,
    guidance: bool,
    *,
    vae: Literal["sd", "taesd"] = "sd",
    pictures_at_once: int = 1,
) -> int:
    """Bytes that one session takes on the device, weights and runtime included.

    frames: of a window, without motion frames. guidance: both halves go through the network in one batch. vae: the
    codec; pictures_at_once: how many it decodes together. Attention must not store its scores: sdpa and xformers do
    not, the kernel "matmul" does.
    """
    batch = 2 if guidance else 1
    sound = WAV2VEC_WEIGHTS if config.backbone.audio is not None else WHISPER_WEIGHTS
    weights = weight_count(config) + CODEC_WEIGHTS[vae] + sound
    kept = bank_values(config, size_px) * (1 + config.motion_frames) * batch
    denoising = denoising_values(config, size_px, frames, batch)
    decoding = CODEC_VALUES_PER_PX[vae] * size_px**2 * pictures_at_once
    return (weights + kept + max(denoising, decoding)) * dtype.itemsize + RUNTIME_BYTES
