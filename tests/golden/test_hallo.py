"""Hallo's ReferenceNet and denoiser against the official ones, in the mode in which pictures are published.

With guidance a batch has two halves, the unconditional one first; we run them one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from emo_live.models.checkpoints.hallo import published_banks, published_tokens
from emo_live.models.emo import Masks, Portrait
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.reference_net import Bank

Golden = Callable[[str], dict[str, Tensor]]
FRAMES = 4


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def compare_banks(ours: Bank, theirs: dict[str, Tensor]) -> None:
    """The stored places may be every 16th."""
    assert theirs
    for layer, rows in theirs.items():
        close(ours[layer][:, :: ours[layer].shape[1] // rows.shape[1]], rows, 1e-4)


def part(numbers: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def in_half(bank: Bank) -> Bank:
    return {name: rows.half().float() for name, rows in bank.items()}


def masks_of(numbers: dict[str, Tensor], prefix: str = "") -> Masks:
    full, face, lip = ([numbers[f"{prefix}{kind}_mask.{i}"] for i in range(4)] for kind in ("full", "face", "lip"))
    return tuple(zip(full, face, lip, strict=True))


def published_reference(model: LatentEmo, numbers: dict[str, Tensor], pictures: Tensor) -> Bank:
    """pictures: (1 + n, 4, h, w), portrait first -> rows of both halves."""
    tokens = published_tokens(numbers["image_tokens_uncond"], numbers["image_tokens"], len(pictures))
    return model.reference_unet.features(pictures.repeat(2, 1, 1, 1), tokens)


def pictures_of(numbers: dict[str, Tensor], motion: str | None = "motion_latents") -> Tensor:
    return torch.cat([numbers["ref_latent"], numbers[motion]] if motion else [numbers["ref_latent"]])


def portrait_of(numbers: dict[str, Tensor], bank: Bank) -> Portrait:
    locator = numbers["mask_cond_fea"][0].transpose(0, 1)  # (T, C, h, w)
    return Portrait(numbers["ref_latent"], bank, locator, masks_of(numbers), numbers["image_tokens"])


def denoise(
    model: LatentEmo,
    numbers: dict[str, Tensor],
    pictures: Tensor,
    scales: tuple[float, ...],
    rounded: Callable[[Bank], Bank] = lambda bank: bank,
) -> Tensor:
    """One call with guidance -> both halves, (2, C, T, h, w)."""
    reference, *motions = published_banks(rounded(published_reference(model, numbers, pictures)), FRAMES)
    portrait, audio = portrait_of(numbers, reference), numbers["audio_tokens"]
    sides = (model.unconditional(portrait), motions[0], torch.zeros_like(audio)), (portrait, motions[1], audio)
    noisy, times = numbers["sample"].transpose(1, 2), numbers["timestep"].expand(1, FRAMES)
    halves = [model.velocity(noisy, times, side, motion, sound, None, scales) for side, motion, sound in sides]
    return torch.cat(halves).transpose(1, 2)


@pytest.fixture(scope="module")
def numbers(golden: Golden) -> dict[str, Tensor]:
    return golden("hallo/denoising_unet")


@pytest.fixture(scope="module")
def scales(numbers: dict[str, Tensor]) -> tuple[float, ...]:
    return tuple(numbers["motion_scale"].tolist())


def test_reference_features_with_guidance(golden: Golden, hallo: LatentEmo) -> None:
    numbers = golden("hallo/reference_unet")
    ours = published_reference(hallo, numbers, pictures_of(numbers))
    theirs = part(numbers, "cfg.bank.")
    assert ours.keys() == theirs.keys()
    compare_banks(ours, theirs)


def test_reference_features(golden: Golden, hallo: LatentEmo) -> None:
    numbers = golden("hallo/reference_unet")
    tokens = numbers["image_tokens"].expand(3, -1, -1)
    compare_banks(hallo.reference_unet.features(pictures_of(numbers), tokens), part(numbers, "nocfg.bank."))


def test_denoiser_layer_by_layer(hallo: LatentEmo, numbers: dict[str, Tensor], scales: tuple[float, ...]) -> None:
    """Both the outputs of the layers, where `act.` says so, and the prediction."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, given, out: seen.setdefault(name, []).append(out)

    wanted = {"temb": "time_embedding"} | {
        name: name for name in part(numbers, "act.") if name != "temb" and not name.endswith(".input")
    }
    modules = dict(hallo.denoising_unet.named_modules())
    hooks = [modules[path].register_forward_hook(keep(name)) for name, path in wanted.items()]
    out = denoise(hallo, numbers, pictures_of(numbers), scales)
    for hook in hooks:
        hook.remove()
    close(torch.stack([half[0] for half in seen.pop("temb")]), numbers["act.temb"], 1e-5)
    for name, halves in seen.items():
        theirs = numbers[f"act.{name}"].transpose(1, 2)[
            :, -FRAMES:
        ]  # motion modules: theirs has motion frames in front
        close(torch.stack(halves), theirs, 5e-4)
    close(out, numbers["out"], 1e-4)


@pytest.mark.parametrize(
    ("variant", "motion"),
    [("", "motion_latents"), (".motion_b", "motion_latents_b"), (".no_motion_frames", None)],
)
def test_published_mode(
    golden: Golden,
    hallo: LatentEmo,
    numbers: dict[str, Tensor],
    scales: tuple[float, ...],
    variant: str,
    motion: str | None,
) -> None:
    out = denoise(hallo, numbers, pictures_of(numbers, motion), scales)
    close(out, golden("hallo/denoising_unet_variants")[f"published.cfg{variant}"], 1e-4)


def test_published_mode_with_full_motion(golden: Golden, hallo: LatentEmo, numbers: dict[str, Tensor]) -> None:
    out = denoise(hallo, numbers, pictures_of(numbers), (1.0, 1.0, 1.0))
    close(out, golden("hallo/denoising_unet_variants")["published.cfg.motion_scale_none"], 1e-4)


def test_features_in_half_precision(
    golden: Golden, hallo: LatentEmo, numbers: dict[str, Tensor], scales: tuple[float, ...]
) -> None:
    """Upstream rounds the ReferenceNet's features to float16 even in a float32 run. We do not; this is all it does."""
    theirs = golden("hallo/denoising_unet_variants")
    out = denoise(hallo, numbers, pictures_of(numbers), scales, in_half)
    close(out, theirs["published.cfg.bank_fp16"], 1e-3)
    assert 1e-5 < (theirs["published.cfg.bank_fp16"] - theirs["published.cfg"]).abs().max() < 1e-3


def test_without_guidance(
    golden: Golden, hallo: LatentEmo, numbers: dict[str, Tensor], scales: tuple[float, ...]
) -> None:
    """Here nothing is dealt out wrongly: this is how the model runs in the product."""
    tokens = numbers["image_tokens"]
    portrait = portrait_of(numbers, hallo.reference_unet.features(numbers["ref_latent"], tokens))
    motion = hallo.motion_bank(numbers["motion_latents"][None], portrait)
    noisy, times = numbers["sample"].transpose(1, 2), numbers["timestep"].expand(1, FRAMES)
    v = hallo.velocity(noisy, times, portrait, motion, numbers["audio_tokens"], None, scales)
    close(v.transpose(1, 2), golden("hallo/denoising_unet_variants")["published.nocfg"], 1e-4)


def test_evaluation_mode_is_not_copied(
    golden: Golden, hallo: LatentEmo, numbers: dict[str, Tensor], scales: tuple[float, ...]
) -> None:
    """Upstream's eval() drops motion frames and motion strength in most blocks. Ours must not change at all."""
    theirs = golden("hallo/denoising_unet_variants")
    assert (theirs["eval.cfg"] - theirs["eval.cfg.motion_b"]).abs().max() < 0.05, "there, motion frames hardly count"
    assert (theirs["published.cfg"] - theirs["published.cfg.motion_b"]).abs().max() > 1
    evaluated = denoise(hallo, numbers, pictures_of(numbers), scales)
    assert (evaluated - golden("hallo/denoising_unet_variants")["eval.cfg"]).abs().max() > 1
    hallo.train()
    trained = denoise(hallo, numbers, pictures_of(numbers), scales)
    hallo.eval()
    assert torch.equal(evaluated, trained)
