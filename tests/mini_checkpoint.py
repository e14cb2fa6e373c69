"""Small models in the layouts of the published checkpoints, with random weights, made on the fly.

Structure and names of all tensors are those of the real files; widths are those of tests/golden (latents of 16 x 16).
Every tensor is random, also where training starts from zeros, so that every path shows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from emo_live.config import AudioProjectionConfig, BackboneConfig, EmoConfig, FaceProjectionConfig, WhisperConfig
from emo_live.models.checkpoints.echomimic import ECHOMIMIC
from emo_live.models.checkpoints.hallo import HALLO, JOYHALLO
from emo_live.models.latent_emo import LatentEmo
from emo_live.weights.manifest import FORMAT, FileEntry, Manifest, Model, Source, write_manifest

WIDTH = 32  # of sound features and face tokens
WAV2VEC = {
    "conv_dim": [16] * 7,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_conv_pos_embedding_groups": 4,
    "num_conv_pos_embeddings": 16,
    "num_hidden_layers": 4,
}
WIDE_GROUPS = {"num_conv_pos_embedding_groups": 2}  # oneDNN gets 8 channels and fewer wrong in bf16 with AMX
WHISPER = WhisperConfig(mels=80, width=WIDTH, heads=4, layers=4, tokens=1500)
VAE = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 128,
}
TAESD = {
    "encoder_block_out_channels": (8,) * 4,
    "decoder_block_out_channels": (8,) * 4,
    "num_encoder_blocks": (1, 1, 1, 1),
    "num_decoder_blocks": (1, 1, 1, 1),
}


def tiny_backbone(config: BackboneConfig) -> BackboneConfig:
    """The same structure, narrow."""
    return replace(
        config,
        block_channels=(32, 64, 32, 32),
        context_width=None if config.context_width is None else WIDTH,
        audio=None if config.audio is None else replace(config.audio, width=48),
    )


def tiny(config: EmoConfig, locator: tuple[int, ...]) -> EmoConfig:
    return replace(
        config,
        backbone=tiny_backbone(config.backbone),
        reference=tiny_backbone(config.reference),
        locator=replace(config.locator, block_channels=locator, out_channels=32),
    )


def _tiny_hallo(config: EmoConfig) -> EmoConfig:
    return replace(
        tiny(config, (8, 16, 16, 24)),
        audio_projection=AudioProjectionConfig(frames=5, blocks=4, width=WIDTH, hidden=48, tokens=8, token_width=48),
        face_projection=FaceProjectionConfig(width=512, tokens=4, token_width=WIDTH),
    )


MINI_CONFIGS: dict[Model, EmoConfig] = {
    "hallo": _tiny_hallo(HALLO),
    "hallo2": _tiny_hallo(HALLO),
    "joyhallo": _tiny_hallo(JOYHALLO),
    "echomimic": replace(
        tiny(ECHOMIMIC, (8, 16, 24, 32)),
        audio_projection=replace(ECHOMIMIC.audio_projection, width=WIDTH, token_width=WIDTH),
    ),
}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight random: matrices N(0, 1 / fan in), norms around 1, biases small. Buffers stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
    return module.eval().requires_grad_(False)


def mini_call(model: LatentEmo, *, frames: int, side: int, batch: int = 1, seed: int = 1) -> tuple[Any, ...]:
    """Random arguments of model.velocity: latents of side x side, a portrait, motion frames where the size has them."""
    config, projection = model.config, model.config.audio_projection
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        masks = tuple(
            tuple(draw(batch, (side >> level) ** 2).sigmoid() for _ in range(3))
            for level in range(len(config.backbone.block_channels))
        )
        region = draw(batch, config.locator.in_channels, 8 * side, 8 * side).sigmoid()
        portrait = model.prepare(draw(batch, 4, side, side), region, cast(Any, masks), draw(batch, 512))
        motion = model.motion_bank(draw(batch, 2, 4, side, side), portrait) if config.motion_frames else None
        sound = model.audioproj(draw(batch, frames, projection.frames, projection.blocks, projection.width))
        times = torch.randint(1000, (batch, frames), generator=generator)
        return draw(batch, frames, 4, side, side), times, portrait, motion, sound, None


def mini_state(model: Model = "hallo", seed: int = 0) -> dict[str, Tensor]:
    """State dict of LatentEmo(MINI_CONFIGS[model]), float16 but for the position codes, as in the published files."""
    state = randomised(LatentEmo(MINI_CONFIGS[model]), seed).state_dict()
    return {name: value if name.endswith(".pe") else value.half() for name, value in state.items()}


def whisper_state(seed: int = 0) -> dict[str, Tensor]:
    """Encoder weights under OpenAI's names, as whisper_tiny.pt has them below model_state_dict."""
    from emo_live.models.audio import WhisperEncoder

    encoder = randomised(WhisperEncoder(WHISPER), seed)
    state = {f"encoder.{_published(name)}": value for name, value in encoder.state_dict().items()}
    position = torch.arange(WHISPER.tokens * WIDTH).reshape(WHISPER.tokens, WIDTH)
    return {**state, "encoder.positional_embedding": position.sin()}


def _published(name: str) -> str:
    parts = name.split(".")
    inside = len(parts) > 2 and parts[2] in ("query", "key", "value", "out")
    return ".".join([*parts[:2], "attn", *parts[2:]]) if inside else name


def write_wav2vec(folder: Path) -> None:
    """Like the published wav2vec2 folder; the rest of it (tokeniser, head) is not needed."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(**cast(Any, WAV2VEC | WIDE_GROUPS))
    config.save_pretrained(folder)
    state = randomised(Wav2Vec2Model(config)).state_dict()
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def write_whisper(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(whisper_state(), folder / "encoder.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(WHISPER)))


def write_vae(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model = cast(Any, randomised(AutoencoderKL(**cast(Any, VAE))))
    model.save_pretrained(folder)


def write_taesd(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    model = cast(Any, randomised(AutoencoderTiny(**cast(Any, TAESD))))
    model.save_pretrained(folder)


def mini_model_folder(path: Path, model: Model = "hallo") -> Path:
    """A complete model folder at `path`, as `emo-live weights convert` leaves it. Takes about a second."""
    path.mkdir(parents=True)
    save_file(mini_state(model), path / "emo.safetensors")
    (write_whisper if model == "echomimic" else write_wav2vec)(path / "sound")
    write_vae(path / "vae")
    write_taesd(path / "taesd")
    files = {file.relative_to(path).as_posix(): _entry(file) for file in sorted(path.rglob("*")) if file.is_file()}
    write_manifest(path, Manifest(FORMAT, path.name, model, MINI_CONFIGS[model], files, ()))
    return path


def _entry(path: Path) -> FileEntry:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileEntry(digest, path.stat().st_size, (Source(None, None, path.name, digest),), "made for tests")
