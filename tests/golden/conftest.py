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

from drawn import SEEDS, draw, first_values  # noqa: E402
from mini_checkpoint import MINI_CONFIGS, VAE, WAV2VEC, WHISPER  # noqa: E402
from safetensors.torch import load, load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from emo_live.config import EmoConfig  # noqa: E402
from emo_live.models.audio import WhisperEncoder  # noqa: E402
from emo_live.models.checkpoints.echomimic import join_files  # noqa: E402
from emo_live.models.latent_emo import LatentEmo  # noqa: E402
from emo_live.models.vae import PictureCodec, SdCodec  # noqa: E402
from emo_live.models.wav2vec import Wav2Vec  # noqa: E402
from emo_live.models.whisper_sound import WhisperSound  # noqa: E402

DATA = Path(__file__).parent / "data"
Golden = Callable[[str], dict[str, Tensor]]


@cache
def read(name: str) -> dict[str, Tensor]:
    if whole := os.environ.get("EMO_LIVE_GOLDEN"):
        tensors: dict[str, Tensor] = load_file(Path(whole) / f"{name}.safetensors")
    elif name in SEEDS:
        tensors = drawn_again(name)
    else:
        tensors = load(lzma.decompress((DATA / f"{name}.safetensors.xz").read_bytes()))
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def drawn_again(name: str) -> dict[str, Tensor]:
    """Hallo's weights. Another version of torch could draw others: then this says so, before anything is compared."""
    own = LatentEmo(MINI_CONFIGS["hallo"]).state_dict()
    names = [key for key in published_names()["net.pth"] if not key.endswith(".pe")]
    weights = draw(SEEDS[name], names, {key: value.shape for key, value in own.items()})
    known = load(lzma.decompress((DATA / "drawn.safetensors.xz").read_bytes()))[name]
    assert torch.allclose(first_values(weights).float(), known.float(), rtol=2e-3, atol=1e-6), (
        f"torch {torch.__version__} draws other random numbers than 2.13.0: set EMO_LIVE_GOLDEN to the whole set"
    )
    return weights | {key: value for key, value in own.items() if key.endswith(".pe")}


@cache
def published_names() -> dict[str, dict[str, list[int]]]:
    keys: dict[str, dict[str, list[int]]] = json.loads(lzma.decompress((DATA / "keys.json.xz").read_bytes()))
    return {name.split(" ")[0]: content for name, content in keys.items()}


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Reads one file of golden numbers, without its ending."""
    return read


@pytest.fixture(scope="session")
def published_keys() -> dict[str, dict[str, list[int]]]:
    """Name of a published file -> names and shapes of its tensors."""
    return published_names()


def ready(config: EmoConfig, state: dict[str, Tensor]) -> LatentEmo:
    model = LatentEmo(config).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="session")
def codec() -> PictureCodec:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model = AutoencoderKL(**VAE)
    model.load_state_dict(read("hallo/vae_tiny"))
    return SdCodec(model, torch.device("cpu"))


@pytest.fixture(scope="session")
def wav2vec() -> Wav2Vec:
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

    model = Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC))
    model.load_state_dict(read("hallo/wav2vec2_tiny"))
    return Wav2Vec(model)


@pytest.fixture(scope="session")
def whisper() -> WhisperSound:
    encoder = WhisperEncoder(WHISPER)
    encoder.load_published(read("echomimic/whisper_tiny_encoder"))
    return WhisperSound(encoder)


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
