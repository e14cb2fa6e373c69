"""Whole samplings from pixels to pixels: two windows of Hallo, a clip of EchoMimic by overlapping windows.

EchoMimic's published pipelines denoise a whole clip at once, whose windows take turns at its frames. That cannot be
live, and its memory grows with the clip; the product's window loop runs EchoMimic instead. So its sampler is here, as a
proof that denoiser, schedule and VAE are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from test_hallo import FRAMES, in_half, masks_of, published_reference
from torch import Tensor

from emo_live.models.checkpoints import sd15
from emo_live.models.checkpoints.hallo import carried, published_banks
from emo_live.models.emo import Portrait
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import NoiseSchedule, guided
from emo_live.models.vae import PictureCodec

Golden = Callable[[str], dict[str, Tensor]]
STEPS = 4


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def rows_like(ours: Tensor, theirs: Tensor) -> Tensor:
    """The stored pictures may have every eighth row."""
    return ours[..., :: ours.shape[-2] // theirs.shape[-2], :]


def sampled(
    model: LatentEmo,
    numbers: dict[str, Tensor],
    window: int,
    pictures: Tensor,
    rounded: Callable[[Bank], Bank] = lambda bank: bank,
) -> list[Tensor]:
    """Latents (C, T, h, w) after every step. pictures: (1 + n, C, h, w), the portrait first."""
    schedule = NoiseSchedule(sd15.SCHEDULE)
    full = model.prepare(pictures[:1], numbers["face_region"], masks_of(numbers, "pipe_"), numbers["face_emb"])
    plain = model.unconditional(full)
    tokens = {"image_tokens": full.tokens, "image_tokens_uncond": plain.tokens}
    bank = rounded(published_reference(model, tokens, pictures))
    reference, *motions = published_banks(bank, FRAMES)
    portrait = replace(full, bank=reference)
    audio = model.audioproj(numbers["pipe_audio_windows"][:, FRAMES * window : FRAMES * (window + 1)])
    close(audio, numbers[f"w{window}.audio_tokens"], 1e-5)
    assert schedule.trailing(STEPS) == numbers["timesteps"].tolist()
    x, seen = numbers[f"noise_w{window}"].transpose(1, 2), []
    for t, to in zip(schedule.trailing(STEPS), schedule.published_targets(STEPS), strict=True):
        times = torch.full((1, FRAMES), t)
        deaf = model.velocity(x, times, plain, motions[0], torch.zeros_like(audio), None)
        v = guided(deaf, model.velocity(x, times, portrait, motions[1], audio, None), float(numbers["guidance_scale"]))
        x = schedule.ddim_step(x[0], v[0], times[0], torch.full((FRAMES,), to))[None]
        seen.append(x[0].transpose(0, 1))
    return seen


@dataclass(frozen=True)
class Run:
    references: list[Tensor]
    latents: list[list[Tensor]]  # window, step


def two_windows(
    model: LatentEmo, codec: PictureCodec, numbers: dict[str, Tensor], rounded: Callable[[Bank], Bank]
) -> Run:
    portrait = codec.encode(numbers["portrait_pixels"])
    motion, run = portrait.expand(2, -1, -1, -1), Run([], [])
    for window in (0, 1):
        run.references.append(torch.cat([portrait, motion]))
        run.latents.append(sampled(model, numbers, window, run.references[-1], rounded))
        motion = carried(codec, run.latents[-1][-1][:, -2:].transpose(0, 1))
    return run


@pytest.fixture(scope="module")
def numbers(golden: Golden) -> dict[str, Tensor]:
    return golden("hallo/pipeline_two_windows")


@pytest.fixture(scope="module")
def run(numbers: dict[str, Tensor], hallo: LatentEmo, codec: PictureCodec) -> Run:
    return two_windows(hallo, codec, numbers, lambda bank: bank)


@pytest.mark.parametrize(("window", "atol"), [(0, 1e-3), (1, 3e-3)])
def test_two_windows_from_pixels_to_pixels(
    numbers: dict[str, Tensor], run: Run, codec: PictureCodec, window: int, atol: float
) -> None:
    """Nothing comes from the published run but noise, portrait and sound: the second window grows from our first."""
    close(run.references[window], numbers[f"w{window}.ref_latents"], atol)
    for step, latents in enumerate(run.latents[window]):
        close(latents[None], numbers[f"w{window}.latents_step{step}"], atol)
    video = codec.decode(run.latents[window][-1].transpose(0, 1)).transpose(0, 1)[None] / 2 + 0.5
    theirs = numbers[("w0.video_last2", "w1.video")[window]]
    close(rows_like(video[:, :, -theirs.shape[2] :], theirs), theirs, 1e-3)


def test_evaluation_mode_ends_elsewhere(numbers: dict[str, Tensor], run: Run) -> None:
    """Upstream's eval() is not what is published, and not what we are."""
    for window in (0, 1):
        assert (run.latents[window][-1] - numbers[f"eval.w{window}.latents_step3"][0]).abs().max() > 0.3


def test_rounded_features_end_where_upstreams_do(
    numbers: dict[str, Tensor], hallo: LatentEmo, codec: PictureCodec, run: Run
) -> None:
    """Upstream rounds the ReferenceNet's features to float16 by default. Rounding jumps, so this is only about size."""
    rounded = two_windows(hallo, codec, numbers, in_half)
    for window in (0, 1):
        theirs = numbers[f"bank_fp16.w{window}.latents_step3"][0]
        close(rounded.latents[window][-1], theirs, 3e-2)
        assert 1e-5 < (theirs - numbers[f"w{window}.latents_step3"][0]).abs().max() < 3e-2
        assert (rounded.latents[window][-1] - run.latents[window][-1]).abs().max() < 3e-2


def test_latents_may_be_carried_in_the_pictures_place(numbers: dict[str, Tensor], hallo: LatentEmo, run: Run) -> None:
    """What the product does instead. The random VAE of these numbers is no inverse of itself, so they differ by much;
    that the second window is another one shows that it depends on its motion frames."""
    shown = run.latents[0][-1][:, -2:].transpose(0, 1)
    ours = sampled(hallo, numbers, 1, torch.cat([run.references[1][:1], shown]))[-1]
    assert ours.isfinite().all() and (ours - run.latents[1][-1]).abs().max() > 0.1


def context_windows(frames: int, context: int, overlap: int, step: int) -> list[list[int]]:
    """Which frames are denoised together. They move on by two frames a step, and go on at the begin where they end."""
    starts = range(0, frames, context - overlap)
    return [[(start + i + 2 * step) % frames for i in range(context)] for start in starts]


@pytest.mark.parametrize("kind", ["acc", "std"])
def test_clip_of_echomimic(golden: Golden, echomimic: LatentEmo, codec: PictureCodec, kind: str) -> None:
    """The accelerated pipeline without guidance, the normal one at 2.5; what windows predict twice is averaged."""
    numbers, schedule = golden("echomimic/pipeline_context"), NoiseSchedule(sd15.SCHEDULE)
    pixels = numbers["portrait_u8"].permute(2, 0, 1)[None].float() / 127.5 - 1
    portrait = echomimic.prepare(codec.encode(pixels), numbers["face_mask"][:, :, 0], (), torch.zeros(1, 512))
    plain, audio = echomimic.unconditional(portrait), numbers["pipe_audio_tokens"]
    assert numbers["pipe_noise"].abs().max() > 1.5
    x = numbers["pipe_noise"].clamp(-1.5, 1.5).transpose(1, 2)
    assert schedule.trailing(STEPS) == numbers["acc.timesteps"].tolist()

    def velocity(frames: list[int], t: int, given: Portrait, sound: Tensor) -> Tensor:
        return echomimic.velocity(x[:, frames], torch.full((1, len(frames)), t), given, None, sound, None)

    for step, (t, to) in enumerate(zip(schedule.trailing(STEPS), schedule.published_targets(STEPS), strict=True)):
        total, times = torch.zeros_like(x), torch.zeros(x.shape[1])
        windows = context_windows(x.shape[1], 4, 1, step)
        assert windows == numbers[f"{kind}.context_windows"][3 * step : 3 * step + 3].tolist()
        for frames in windows:
            v = velocity(frames, t, portrait, audio[:, frames])
            if kind == "std":
                v = guided(velocity(frames, t, plain, torch.zeros_like(audio[:, frames])), v, 2.5)
            total[:, frames] += v
            times[frames] += 1
        v = total[0] / times[:, None, None, None]
        steps = [torch.full((x.shape[1],), time) for time in (t, to)]
        x = schedule.ddim_step(x[0], v, *steps)[None]
        close(x.transpose(1, 2), numbers[f"{kind}.latents_step{step}"], 1e-3)
    if kind == "acc":
        video = codec.decode(x[0, [0, -1]]).transpose(0, 1)[None] / 2 + 0.5
        theirs = numbers["acc.video_first_last"]
        close(rows_like(video, theirs), theirs, 1e-3)
