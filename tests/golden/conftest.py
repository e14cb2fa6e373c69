"""The golden numbers, and our models at their size with their weights."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load, load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from emo_live.config import AudioProjectionConfig, BackboneConfig, EmoConfig, FaceProjectionConfig  # noqa: E402
from emo_live.models.checkpoints.echomimic import ECHOMIMIC, join_files  # noqa: E402
from emo_live.models.checkpoints.hallo import HALLO  # noqa: E402
from emo_live.models.latent_emo import LatentEmo  # noqa: E402

DATA = Path(__file__).parent / "data"
Golden = Callable[[str], dict[str, Tensor]]


@cache
def read(name: str) -> dict[str, Tensor]:
    if whole := os.environ.get("EMO_LIVE_GOLDEN"):
        tensors: dict[str, Tensor] = load_file(Path(whole) / f"{name}.safetensors")
    else:
        tensors = load(lzma.decompress((DATA / f"{name}.safetensors.xz").read_bytes()))
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Reads one file of golden numbers, without its ending."""
    return read


@pytest.fixture(scope="session")
def published_keys() -> dict[str, dict[str, list[int]]]:
    """Name of a published file -> names and shapes of its tensors."""
    keys: dict[str, dict[str, list[int]]] = json.loads(lzma.decompress((DATA / "keys.json.xz").read_bytes()))
    return {name.split(" ")[0]: content for name, content in keys.items()}


def tiny_backbone(config: BackboneConfig) -> BackboneConfig:
    """The same structure with the widths of the golden numbers."""
    return replace(
        config,
        block_channels=(32, 64, 32, 32),
        context_width=None if config.context_width is None else 32,
        audio=None if config.audio is None else replace(config.audio, width=48),
    )


def tiny(config: EmoConfig, locator: tuple[int, ...]) -> EmoConfig:
    return replace(
        config,
        backbone=tiny_backbone(config.backbone),
        reference=tiny_backbone(config.reference),
        locator=replace(config.locator, block_channels=locator, out_channels=32),
    )


def ready(config: EmoConfig, state: dict[str, Tensor]) -> LatentEmo:
    model = LatentEmo(config).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="session")
def hallo() -> LatentEmo:
    config = replace(
        tiny(HALLO, (8, 16, 16, 24)),
        audio_projection=AudioProjectionConfig(frames=5, blocks=4, width=32, hidden=48, tokens=8, token_width=48),
        face_projection=FaceProjectionConfig(width=512, tokens=4, token_width=32),
    )
    return ready(config, read("hallo/net_tiny"))


@pytest.fixture(scope="session")
def echomimic() -> LatentEmo:
    """Its UNets have the weights of Hallo's, without what they lack."""
    net = read("hallo/net_tiny")

    def part(prefix: str, *without: str) -> dict[str, Tensor]:
        own = {key.removeprefix(prefix): value for key, value in net.items() if key.startswith(prefix)}
        return {key: value for key, value in own.items() if not any(word in key for word in without)}

    denoiser = part("denoising_unet.", ".audio_modules.")
    files = {
        "reference_unet": part("reference_unet.", ".attn2.", ".transformer_blocks.0.norm2."),
        "motion_module": {key: value for key, value in denoiser.items() if ".motion_modules." in key},
        "denoising_unet": {key: value for key, value in denoiser.items() if ".motion_modules." not in key},
        "face_locator": read("echomimic/face_locator_tiny"),
    }
    projection = replace(ECHOMIMIC.audio_projection, width=32, token_width=32)
    return ready(replace(tiny(ECHOMIMIC, (8, 16, 24, 32)), audio_projection=projection), join_files(files))
