"""EchoMimic's denoiser against the official one: sound in attn2, all motion modules, no motion frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_hallo import in_half
from torch import Tensor

from emo_live.models.emo import Portrait
from emo_live.models.latent_emo import LatentEmo

Golden = Callable[[str], dict[str, Tensor]]
FRAMES = 4


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def numbers(golden: Golden) -> dict[str, Tensor]:
    return golden("echomimic/unet_forward")


@pytest.fixture(scope="module")
def portrait(echomimic: LatentEmo, numbers: dict[str, Tensor], golden: Golden) -> Portrait:
    mask = golden("echomimic/face_locator")["face_mask"][:, :, 0]
    return echomimic.prepare(numbers["ref_latent"], mask, (), torch.zeros(1, 512))


def denoise(model: LatentEmo, numbers: dict[str, Tensor], portrait: Portrait, audio: Tensor) -> Tensor:
    noisy, times = numbers["sample"].transpose(1, 2), numbers["timestep"].expand(1, FRAMES)
    return model.velocity(noisy, times, portrait, None, audio, None).transpose(1, 2)


def test_reference_features(numbers: dict[str, Tensor], portrait: Portrait) -> None:
    theirs = {key.removeprefix("bank."): rows for key, rows in numbers.items() if key.startswith("bank.")}
    assert len(theirs) == 4
    for layer, rows in theirs.items():
        ours = portrait.bank[layer]
        close(ours[:, :: ours.shape[1] // rows.shape[1]], rows, 1e-4)


def test_denoiser(echomimic: LatentEmo, numbers: dict[str, Tensor], portrait: Portrait) -> None:
    close(portrait.locator, numbers["face_features"][:, :, 0], 1e-5)
    seen: dict[str, Tensor] = {}
    names = [key.removeprefix("nocfg.act.") for key in numbers if key.startswith("nocfg.act.")]
    hooks = [
        echomimic.denoising_unet.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: seen.update({name: out})
        )
        for name in names
    ]
    out = denoise(echomimic, numbers, portrait, numbers["audio_tokens"])
    for hook in hooks:
        hook.remove()
    for name in names:
        close(seen[name][None].transpose(1, 2), numbers[f"nocfg.act.{name}"], 5e-4)
    close(out, numbers["nocfg.out"], 1e-4)


def test_guidance(echomimic: LatentEmo, numbers: dict[str, Tensor], portrait: Portrait) -> None:
    audio = numbers["audio_tokens"]
    deaf = denoise(echomimic, numbers, echomimic.unconditional(portrait), torch.zeros_like(audio))
    close(torch.cat([deaf, denoise(echomimic, numbers, portrait, audio)]), numbers["cfg.out"], 1e-4)


def test_features_in_half_precision(echomimic: LatentEmo, numbers: dict[str, Tensor], portrait: Portrait) -> None:
    """As upstream hands them over by default; we do not round."""
    rounded = replace(portrait, bank=in_half(portrait.bank))
    out = denoise(echomimic, numbers, rounded, numbers["audio_tokens"])
    close(out, numbers["nocfg.bank_fp16.out"], 1e-3)
    assert 1e-5 < (numbers["nocfg.bank_fp16.out"] - numbers["nocfg.out"]).abs().max() < 1e-3
