"""The VAE, what Hallo2 does to motion frames, and the masks of face and lips, against the official pipelines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from emo_live.engine.face_regions import blurred_box, mask_levels, scaled_box, separated
from emo_live.models.checkpoints.hallo import carried, published_draws, with_pixels_dropped
from emo_live.models.vae import PictureCodec

Golden = Callable[[str], dict[str, Tensor]]


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def rows_like(ours: Tensor, theirs: Tensor) -> Tensor:
    """The stored pictures may have every eighth row."""
    return ours[..., :: ours.shape[-2] // theirs.shape[-2], :]


def test_decoding(golden: Golden, codec: PictureCodec) -> None:
    numbers = golden("hallo/pipeline_two_windows")
    first, second = (codec.decode(numbers[f"w{k}.latents_step3"][0].transpose(0, 1)) / 2 + 0.5 for k in (0, 1))
    last, video = (numbers[name][0].transpose(0, 1) for name in ("w0.video_last2", "w1.video"))
    close(rows_like(first[-2:], last), last, 1e-5)
    close(first.mean((1, 2, 3)), numbers["w0.video_frame_mean"][0], 1e-5)
    close(rows_like(second, video), video, 1e-5)


def test_motion_frames_are_carried_through_pixels(golden: Golden, codec: PictureCodec) -> None:
    """Portrait and motion frames, encoded to the posterior's mean: those of window 1 from the pictures of window 0."""
    numbers = golden("hallo/pipeline_two_windows")
    pixels = numbers["portrait_pixels"]
    close(codec.encode(pixels.expand(3, -1, -1, -1)), numbers["w0.ref_latents"], 1e-4)
    portrait = codec.encode(pixels)
    shown = numbers["w0.latents_step3"][0, :, -2:].transpose(0, 1)
    ours = torch.cat([portrait, carried(codec, shown)])
    close(ours, numbers["w1.ref_latents"], 1e-4)
    assert (shown - numbers["w1.ref_latents"][1:]).abs().max() > 0.1, "a copy of the latents is something else"


def test_pixels_dropped_by_hallo2(golden: Golden) -> None:
    numbers = {
        key.removeprefix("mm."): value[0] for key, value in golden("hallo/hallo2_extras").items() if "mm." in key
    }
    pictures, wanted = numbers["pixels_in"], numbers["pixels_out"]
    chance = golden("hallo/hallo2_extras")["mm.uniform"]
    assert torch.equal(with_pixels_dropped(pictures[1:], numbers["face_region"], chance), wanted[1:])
    assert torch.equal(pictures[0], wanted[0]), "the portrait stays"
    assert 0.1 < float((wanted[1:] == 0).float().mean()) < 0.25


def test_noise_of_hallo2_is_not_that_of_hallo() -> None:
    """One generator gives the noise of all windows; Hallo2's dropped pixels come from it, too."""
    shape = (1, 4, 4, 16, 16)
    plain, dropping, own = (torch.Generator().manual_seed(42) for _ in range(3))
    hallo = [published_draws(plain, shape) for _ in range(2)]
    hallo2 = [published_draws(dropping, shape, 64) for _ in range(2)]
    for chance, noise in hallo:
        assert chance is None and torch.equal(noise, torch.randn(shape, generator=own))
    for (_, noise), (chance, other) in zip(hallo, hallo2, strict=True):
        assert chance is not None and chance.shape == (64, 64) and 0 <= float(chance.min()) < float(chance.max()) < 1
        assert not torch.equal(noise, other)


def test_masks(golden: Golden) -> None:
    """Every step, every pixel: 0 of 255 apart."""
    numbers = {key: value.numpy() for key, value in golden("hallo/masks").items()}
    face = scaled_box(numbers["landmarks_silhouette"], 1.2, 512)
    lip = scaled_box(numbers["landmarks_lip"], 2.0, 512)
    assert face == tuple(numbers["face_bbox_xyxy"]) and lip == tuple(numbers["lip_bbox_xyxy"])
    soft, soft_lip = blurred_box(face, 512, 51), blurred_box(lip, 512, 31)
    np.testing.assert_array_equal(soft, numbers["face_mask_blur"])
    parts = separated(soft, soft_lip)
    for part, name in zip(parts, ("background", "face", "lip"), strict=True):
        np.testing.assert_array_equal(part, numbers[f"sep_{name}"])
    assert 0.1 < (parts[0] != 255 - soft).mean() < 0.2, "the background is cut down to whole steps, not rounded"
    for level, masks in enumerate(mask_levels(parts, [64, 32, 16, 8])):
        for mask, name in zip(masks, ("full", "face", "lip"), strict=True):
            np.testing.assert_allclose(mask, numbers[f"{name}_mask.{level}"], rtol=0, atol=1e-7)
