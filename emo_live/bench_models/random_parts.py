"""Published sizes with random weights, made where they are used: no file is read, and nothing is held twice.

`narrow` gives the same kinds of layers, few and narrow, to try a benchmark out on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from emo_live.config import BackboneConfig, EmoConfig
from emo_live.errors import NotSupportedError
from emo_live.models.audio import WhisperEncoder
from emo_live.models.checkpoints.echomimic import ECHOMIMIC, WHISPER
from emo_live.models.checkpoints.hallo import HALLO
from emo_live.models.compiled import placed
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.libraries import silent
from emo_live.models.vae import PictureCodec, SdCodec, TaesdCodec
from emo_live.models.wav2vec import SoundFeatures, Wav2Vec, Wav2VecFeatures
from emo_live.models.whisper_sound import WhisperFeatures, WhisperSound

ModelName = Literal["hallo", "echomimic"]
CONFIGS: dict[ModelName, EmoConfig] = {"hallo": HALLO, "echomimic": ECHOMIMIC}
_NARROW = 48  # width of tokens and of sound features
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_NARROW_VAE = {**_VAE, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
_NARROW_TAESD = {f"{end}_block_out_channels": (8,) * 4 for end in ("encoder", "decoder")}
_NARROW_WAV2VEC = {
    "hidden_size": _NARROW,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "conv_dim": [32] * 7,
    "num_conv_pos_embedding_groups": 4,
}


def narrow(config: EmoConfig) -> EmoConfig:
    """Two levels, the upper one with everything that the upper three have."""

    def backbone(wide: BackboneConfig) -> BackboneConfig:
        audio = None if wide.audio is None else replace(wide.audio, width=_NARROW)
        context = None if wide.context_width is None else _NARROW
        shallow = replace(wide, block_channels=(32, 64), attention_levels=(True, False), layers_per_block=1)
        return replace(shallow, context_width=context, audio=audio)

    projection = replace(config.audio_projection, width=_NARROW, token_width=_NARROW)
    face = None if config.face_projection is None else replace(config.face_projection, token_width=_NARROW)
    return replace(
        config,
        backbone=backbone(config.backbone),
        reference=backbone(config.reference),
        locator=replace(config.locator, out_channels=32),
        audio_projection=replace(projection, hidden=None if projection.hidden is None else _NARROW),
        face_projection=face,
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session works with. hear: the sound network, whose time does not depend on what it hears."""

    emo: LatentEmo
    codecs: dict[str, PictureCodec]
    hear: SoundFeatures


def random_parts(name: ModelName, device: torch.device, dtype: torch.dtype, *, small: bool) -> Parts:
    """Raises NotSupportedError without diffusers and transformers."""
    config = narrow(CONFIGS[name]) if small else CONFIGS[name]
    emo = cast(LatentEmo, _filled(lambda: LatentEmo(config), device, dtype))
    emo.denoising_unet.drop_unused()
    return Parts(emo, _codecs(device, dtype, small=small), _hearing(name, device, small=small))


def _codecs(device: torch.device, dtype: torch.dtype, *, small: bool) -> dict[str, PictureCodec]:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    except ModuleNotFoundError as error:
        raise NotSupportedError('the benchmark needs diffusers: pip install "emo-live[gpu]"') from error

    sizes: dict[str, Any] = _NARROW_VAE if small else _VAE
    tiny: dict[str, Any] = _NARROW_TAESD if small else {}
    return {
        "sd": SdCodec(_filled(lambda: AutoencoderKL(**sizes), device, dtype), device),
        "taesd": TaesdCodec(_filled(lambda: AutoencoderTiny(**tiny), device, dtype), device),
    }


def _hearing(name: ModelName, device: torch.device, *, small: bool) -> SoundFeatures:
    """In float32, as sessions have it."""
    if name == "echomimic":
        whisper = replace(WHISPER, width=_NARROW, heads=4) if small else WHISPER
        return WhisperFeatures(WhisperSound(WhisperEncoder(whisper).to(device)))
    try:
        from transformers.models.wav2vec2.configuration_wav2vec2 import Wav2Vec2Config
        from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model
    except ModuleNotFoundError as error:
        raise NotSupportedError('the benchmark needs transformers: pip install "emo-live[gpu]"') from error

    settings: dict[str, Any] = _NARROW_WAV2VEC if small else {}
    return Wav2VecFeatures(Wav2Vec(Wav2Vec2Model(Wav2Vec2Config(**settings)).to(device)))


def _filled(make: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Made without memory, given it on the device, and filled so that values stay within bounds from layer to layer."""
    with silent("diffusers"), torch.device("meta"):  # it warns of casting, whatever the model is
        model = make().to(dtype)
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for key, value in model.named_parameters():
        if value.ndim > 1:
            value.data.normal_(0, value[0].numel() ** -0.5, generator=generator)
        else:
            value.data.fill_(0 if key.endswith("bias") else 1)
    for buffer in model.buffers():
        buffer.zero_()
    with silent("diffusers"):
        return placed(model, device, dtype)
