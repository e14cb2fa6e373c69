"""Full-size configs have the names and shapes of the published checkpoints. Nothing is allocated: meta device."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from emo_live.models.audio import WhisperEncoder
from emo_live.models.checkpoints.echomimic import ECHOMIMIC, WHISPER, join_files
from emo_live.models.checkpoints.hallo import HALLO, JOYHALLO
from emo_live.models.latent_emo import LatentEmo

Keys = dict[str, dict[str, list[int]]]


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


@pytest.fixture(autouse=True)
def meta() -> object:
    with torch.device("meta"):
        yield


def test_hallo(published_keys: Keys) -> None:
    assert shapes(LatentEmo(HALLO)) == published_keys["net.pth"]


def test_hallo_groups() -> None:
    model = LatentEmo(HALLO)

    def group(key: str) -> str:
        special = [word for word in ("audio_modules", "motion_modules") if word in key]
        return special[0] if special else key.split(".")[0]

    counts = Counter(group(key) for key in model.state_dict())
    assert counts == {
        "reference_unet": 682,
        "denoising_unet": 686,
        "motion_modules": 588,
        "audio_modules": 672,
        "face_locator": 16,
        "imageproj": 4,
        "audioproj": 8,
    }
    assert sum(value.numel() for value in model.state_dict().values()) == 2_424_802_964


def test_joyhallo_lacks_two_of_three_readers(published_keys: Keys) -> None:
    keys = {k: v for k, v in published_keys["net.pth"].items() if ".attn2_1." not in k and ".attn2_2." not in k}
    assert len(keys) == 2496
    assert shapes(LatentEmo(JOYHALLO)) == keys


def test_echomimic_is_made_of_its_files(published_keys: Keys) -> None:
    files: dict[str, dict[str, Tensor]] = {
        name.removesuffix(".pth"): {key: torch.empty(shape) for key, shape in keys.items()}
        for name, keys in published_keys.items()
        if name not in ("net.pth", "audio_processor/whisper_tiny.pt")
    }
    assert {name: len(keys) for name, keys in files.items()} == {
        "reference_unet": 570,
        "denoising_unet": 686,
        "motion_module": 588,
        "face_locator": 16,
    }
    model = LatentEmo(ECHOMIMIC)
    assert shapes(model) == {key: list(value.shape) for key, value in join_files(files).items()}


def test_newer_denoiser_file_wins() -> None:
    """Old training dumps hold motion keys too; upstream loads the denoiser's file last."""
    old, new, none = torch.empty(1), torch.empty(2), dict[str, Tensor]()
    files = {"reference_unet": none, "motion_module": {"a": old}, "denoising_unet": {"a": new}, "face_locator": none}
    assert join_files(files) == {"denoising_unet.a": new}


def test_whisper(published_keys: Keys) -> None:
    published = {
        key.removeprefix("encoder.").replace(".attn.", "."): shape
        for key, shape in published_keys["audio_processor/whisper_tiny.pt"].items()
        if not key.startswith("encoder.ln_post.")
    }
    assert shapes(WhisperEncoder(WHISPER)) == published
