"""The golden numbers, and our models at their size with their weights."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mini_checkpoint import MINI_CONFIGS  # noqa: E402
from safetensors.torch import load, load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from emo_live.config import EmoConfig  # noqa: E402
from emo_live.models.checkpoints.echomimic import join_files  # noqa: E402
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


def ready(config: EmoConfig, state: dict[str, Tensor]) -> LatentEmo:
    model = LatentEmo(config).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="session")
def hallo() -> LatentEmo:
    return ready(MINI_CONFIGS["hallo"], read("hallo/net_tiny"))


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
    return ready(MINI_CONFIGS["echomimic"], join_files(files))
