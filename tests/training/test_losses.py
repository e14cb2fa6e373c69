"""What the losses are made of: weights, distances, the energy score, drift corrected, noise that continues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_live.config import TINY
from emo_live.engine.noise import TAPS
from emo_live.engine.schedule import FewStepSampler
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.sampler import NoiseSchedule
from emo_live.training import diffusion
from emo_live.training.diffusion import SHAPES, DiffusionLoss, channel_weight, place_weight
from emo_live.training.distil import DistilLoss, distances, parts, predict_clean, reanchored
from emo_live.training.motion_data import MotionData
from emo_live.training.roll_out import Sampling, sample_window

CPU = torch.device("cpu")


def stub(**parts: Any) -> Any:
    """Something with the config and the folding of a model, and nothing else."""
    return SimpleNamespace(config=TINY.emo, fold=lambda x: x, unfold=lambda x: x, **parts)


@pytest.fixture(scope="module")
def mask(data: MotionData) -> Tensor:
    return torch.stack([data.portrait(i)["mask"] for i in range(2)])


def test_shapes_are_what_speech_moves(arkit_names: tuple[str, ...]) -> None:
    assert list(arkit_names) == ["_neutral", *sorted(arkit_names[1:])] and len(arkit_names) == 52
    chosen = arkit_names[SHAPES]
    assert set(chosen) == {name for name in arkit_names if name.startswith(("jaw", "mouth", "nose"))}


def test_place_weights(mask: Tensor) -> None:
    weight = place_weight(mask, 16)
    assert weight.shape == (2, 1, 1, 16, 16)
    torch.testing.assert_close(weight.mean((1, 2, 3, 4)), torch.ones(2), rtol=0, atol=1e-5)
    for portrait, row in zip(mask, weight[:, 0, 0], strict=True):
        cells = [torch.nonzero(channel.reshape(16, 8, 16, 8).mean((1, 3)) > 0.3) for channel in portrait[1:3]]
        for y, x in torch.cat(cells).tolist():
            assert row[y, x] > 1.5, "lips and eyes"
        assert row[0, 0] < 0.5, "a corner"


def test_channel_weights(basis: MotionBasis) -> None:
    weight = channel_weight(basis)
    assert weight.shape == (16, 1, 1)
    assert float(weight.mean()) == pytest.approx(1, abs=1e-5)
    ratio, scale = float(weight[0] / weight[-1]), float(basis.scale[0] / basis.scale[-1])
    assert ratio == pytest.approx(scale**0.5, rel=1e-4)


def test_parts_look_at_lips_eyes_and_everything(mask: Tensor) -> None:
    where = parts(mask, 16)
    assert where.shape == (2, 3, 16, 16)
    lips, eyes, everything = where.unbind(1)
    rows = torch.arange(16.0)[:, None]
    middle = [(part * rows).sum((1, 2)) / part.sum((1, 2)) for part in (lips, eyes)]
    assert (middle[0] > middle[1] + 2).all(), "lips are below the eyes"
    assert (lips * eyes).max() == 0
    assert everything.min() >= 0.149


def test_distances(mask: Tensor, basis: MotionBasis) -> None:
    torch.manual_seed(0)
    where, channels = parts(mask, 16), channel_weight(basis)
    z = torch.randn(2, 4, 16, 16, 16)
    other = z + 0.5 * torch.randn_like(z)
    same, apart = distances(z, z, where, channels), distances(z, other, where, channels)
    assert same.shape == (2,) and (same < 0.01).all(), "nothing but the small number under the root"
    torch.testing.assert_close(distances(other, z, where, channels), apart)
    torch.testing.assert_close(distances(z, z + 2 * (other - z), where, channels), 2 * apart, rtol=1e-3, atol=0)
    assert (apart > 1).all()


def test_lips_count_more_than_a_corner(mask: Tensor, basis: MotionBasis) -> None:
    where, channels, z = parts(mask, 16), channel_weight(basis), torch.zeros(2, 4, 16, 16, 16)
    y, x = np.unravel_index(int(where[0, 0].argmax()), (16, 16))
    at_lips, at_corner = z.clone(), z.clone()
    at_lips[:, :, :, y, x] = at_corner[:, :, :, 0, 0] = 1
    assert distances(z, at_lips, where, channels)[0] > 3 * distances(z, at_corner, where, channels)[0]


def test_a_still_offset_and_a_trembling_one(mask: Tensor, basis: MotionBasis) -> None:
    """Differences of neighbouring frames count too: the same error costs more if it changes its sign every frame."""
    where, channels, z = parts(mask, 16), channel_weight(basis), torch.zeros(2, 8, 16, 16, 16)
    sign = (-1.0) ** torch.arange(8)[None, :, None, None, None]
    assert (distances(z, z + sign, where, channels) > 1.3 * distances(z, z + 1, where, channels)).all()


def test_the_energy_score_is_smallest_for_the_right_distribution() -> None:
    """Truth is normal; draws with another mean or another spread, smaller above all, score worse."""
    torch.manual_seed(0)
    rows, shape = 4000, (2, 3, 2, 2)
    truth, first, second = (torch.randn(rows, *shape) for _ in range(3))
    where, channels = torch.ones(rows, 3, 2, 2), torch.ones(3, 1, 1)

    def score(mean: float, spread: float) -> float:
        a, b = mean + spread * first, mean + spread * second
        miss = (distances(a, truth, where, channels) + distances(b, truth, where, channels)).mean() / 2
        return float(miss - 0.5 * distances(a, b, where, channels).mean())

    scores = {(m, s): score(m, s) for m in (-0.4, 0.0, 0.4) for s in (0.0, 0.6, 1.0, 1.4)}
    assert min(scores, key=lambda place: scores[place]) == (0.0, 1.0)
    assert score(0, 0) > score(0, 1) + 0.3, "the average of everything is no answer"


def test_reanchored_continues_and_returns() -> None:
    torch.manual_seed(0)
    target = torch.randn(2, 60, 16, 16, 16) * 0.01
    slow, fast = torch.ones(2, 16, 1, 1).expand(2, 16, 16, 16), torch.zeros(2, 16, 16, 16)
    fast[:, :, ::2, ::2], fast[:, :, 1::2, ::2] = 1.0, -1.0  # rows of changing sign: no broad part
    assert torch.equal(reanchored(target, torch.zeros_like(slow)), target)
    for deviation, first, after_ten in ((slow, 0.9, 0.4), (fast, 0.3, 0.0)):
        left = (reanchored(target, deviation) - target).flatten(2).abs().amax(2)  # (2, 60)
        assert (left.diff(dim=1) < 0).all(), "it fades from frame to frame"
        assert (left[:, 0] > first).all() and (left[:, 0] < 1).all()
        assert (left[:, 9] >= after_ten).all() and (left[:, -1] < 0.05).all()
    last = target[:, 0] + slow  # what the student drew before, were the truth to stand still
    assert (reanchored(target, slow)[:, 0] - last).abs().max() < 0.1, "no jump"


def test_noise_of_a_window_continues_that_of_the_one_before() -> None:
    torch.manual_seed(0)
    loss: Any = SimpleNamespace(device=CPU)
    past, draws = DistilLoss._noise(loss, torch.zeros(60, 4, 16, 4, 4))
    assert past.shape == (60, 4, 16, 4, 4) and draws.shape == (120, 4, 16, 4, 4)
    a, b = draws.chunk(2)

    def agree(x: Tensor, y: Tensor, channels: slice) -> float:
        return float(np.corrcoef(x[:, channels].ravel(), y[:, channels].ravel())[0, 1])

    fast, slow = slice(0, 4), slice(12, 16)
    for draw in (a, b):
        assert agree(past[:, -1], draw[:, 0], slow) > 0.9
        assert abs(agree(past[:, -1], draw[:, 0], fast)) < 0.1
        assert float(draw.std()) == pytest.approx(1, abs=0.03)
    assert 0.8 < agree(a[:, 0], b[:, 0], slow) < 0.98, "one past, two futures"
    assert agree(a[:, -1], b[:, -1], slow) < agree(a[:, 0], b[:, 0], slow)
    assert abs(agree(a[:, 0], b[:, 0], fast)) < 0.1
    assert TAPS > 4


def test_clean_latents_from_a_true_prediction() -> None:
    torch.manual_seed(0)
    schedule, clean, noise = NoiseSchedule(TINY.emo.schedule), torch.randn(3, 2, 4, 2, 2), torch.randn(3, 2, 4, 2, 2)
    for step in (0, 499, 999):
        t = torch.full((6,), step)
        noisy = schedule.add_noise(clean.flatten(0, 1), noise.flatten(0, 1), t).view_as(clean)
        v = schedule.velocity(clean.flatten(0, 1), noise.flatten(0, 1), t).view_as(clean)
        model, given = stub(velocity=lambda *_, v=v: v), (None,) * 4
        torch.testing.assert_close(predict_clean(model, noisy, step, *given), clean, rtol=0, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_roll_outs_sample_as_the_engine_does(steps: int) -> None:
    torch.manual_seed(0)
    noise = torch.randn(1, 3, 4, 2, 2)

    def velocity(x: Tensor, t: Tensor, *_: Any) -> Tensor:
        return 0.3 * x + torch.sin(t.float() / 300)[:, :, None, None, None]

    given: Any = (None,) * 2
    made = sample_window(stub(velocity=velocity), noise, *given, torch.zeros(1), torch.zeros(1), Sampling(steps))

    def predict(x: Any, timestep: int) -> Any:
        return velocity(torch.from_numpy(x)[None], torch.full((1, 3), timestep))[0].numpy()

    engine = FewStepSampler(TINY.emo.schedule, steps).sample(noise[0].numpy(), predict)
    np.testing.assert_allclose(made[0].numpy(), engine, atol=2e-5)


def test_timesteps_are_shared_by_a_window_or_each_frames_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loss: Any = SimpleNamespace(device=CPU, schedule=NoiseSchedule(TINY.emo.schedule))
    torch.manual_seed(0)
    t = DiffusionLoss._times(loss, 600, 8).view(600, 8)
    own = (t != t[:, :1]).any(1)
    assert float(own.float().mean()) == pytest.approx(diffusion.OWN_TIMES, abs=0.05)
    assert t.min() < 20 and t.max() > 980 and t.max() < 1000
    assert len(t[:, 0].unique()) > 200


def test_motion_frames_are_blurred_and_sometimes_gone() -> None:
    torch.manual_seed(0)
    motion = torch.full((1000, 2, 4, 2, 2), 5.0)
    out = DiffusionLoss.blurred(None, motion)  # type: ignore[arg-type]
    gone = (out == 0).flatten(1).all(1)
    assert float(gone.float().mean()) == pytest.approx(diffusion.MOTION_DROP, abs=0.025)
    left = out[~gone] - 5
    assert abs(float(left.mean())) < 0.01 and 0.1 < float(left.std()) < diffusion.MOTION_NOISE
    assert float(left.flatten(1).std(1).min()) < 0.03, "some hardly at all"
