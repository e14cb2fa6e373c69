"""Projections, face locators, whisper, noise schedule and DDIM against the official modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import WhisperConfig
from emo_live.models.audio import WhisperEncoder
from emo_live.models.checkpoints import sd15
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.sampler import NoiseSchedule

Golden = Callable[[str], dict[str, Tensor]]


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def test_projections(golden: Golden, hallo: LatentEmo) -> None:
    numbers = golden("hallo/modules")
    assert hallo.imageproj is not None
    close(hallo.imageproj(numbers["face_emb"]), numbers["image_tokens"], 1e-5)
    close(hallo.imageproj(torch.zeros(1, 512)), numbers["image_tokens_uncond"], 1e-5)
    close(hallo.audioproj(numbers["audio_windows"]), numbers["audio_tokens"], 1e-5)


@pytest.mark.parametrize(
    ("size", "file", "mask"),
    [("hallo", "hallo/modules", "face_region"), ("echomimic", "echomimic/face_locator", "face_mask")],
)
def test_face_locators(golden: Golden, request: pytest.FixtureRequest, size: str, file: str, mask: str) -> None:
    model, numbers = request.getfixturevalue(size), golden(file)
    close(model.face_locator(numbers[mask].view(1, -1, 128, 128)), numbers["face_features"][:, :, 0], 1e-5)
    frames = numbers[f"{mask}_random"][0].transpose(0, 1)  # (T, C, H, W)
    close(model.face_locator(frames), numbers["face_features_random"][0].transpose(0, 1), 1e-5)


@pytest.mark.parametrize("layers", range(5))
def test_truncated_whisper(golden: Golden, layers: int) -> None:
    """`feature` is, for every 20 ms, the embedding and the output of every block."""
    encoder = WhisperEncoder(WhisperConfig(mels=80, width=32, heads=4, layers=layers, tokens=1500)).eval()
    encoder.load_published(golden("echomimic/whisper_tiny_encoder"))
    numbers = golden("echomimic/audio_whisper")
    mel, feature = numbers["log_mel"], numbers["feature"]
    with torch.no_grad():
        states = encoder.states(F.pad(mel, (0, 3000 - mel.shape[1]))[None])
    assert len(states) == layers + 1
    close(states[-1][0, : len(feature)], feature[:, layers], 1e-4)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_noise_schedule(golden: Golden, kind: str) -> None:
    schedule = NoiseSchedule(replace(sd15.SCHEDULE, kind=kind))
    close(schedule.alpha_bar.float(), golden("hallo/scheduler")[f"{kind}.alphas_cumprod"], 1e-6)
    assert schedule.alpha_bar[-1] == 0, "no signal is left at the last timestep"


@pytest.mark.parametrize("steps", [4, 5, 6, 10, 20, 30, 40])
def test_trailing_timesteps(golden: Golden, steps: int) -> None:
    assert NoiseSchedule(sd15.SCHEDULE).trailing(steps) == golden("hallo/scheduler")[f"timesteps.{steps}"].tolist()


@pytest.mark.parametrize("steps", [4, 6, 40])
@pytest.mark.parametrize(("name", "index"), [("first", 0), ("second", 1), ("last", -1)])
def test_ddim(golden: Golden, steps: int, name: str, index: int) -> None:
    numbers, schedule = golden("hallo/scheduler"), NoiseSchedule(sd15.SCHEDULE)
    noisy, v = numbers["sample"], numbers["model_output"]
    t, to = torch.tensor([schedule.trailing(steps)[index]]), torch.tensor([schedule.published_targets(steps)[index]])
    close(schedule.ddim_step(noisy, v, t, to), numbers[f"linear.steps{steps}.{name}.prev_sample"], 1e-5)
    if name == "last":
        close(schedule.clean_from_velocity(noisy, v, t), numbers[f"linear.steps{steps}.last.pred_x0"], 1e-5)
