"""What the losses are made of: weights, distances, noise that continues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_live.config import TINY
from emo_live.engine.motion_prior import MotionPrior
from emo_live.engine.schedule import FewStepSampler
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.hearing import HEARD
from emo_live.models.sampler import NoiseSchedule
from emo_live.training import diffusion
from emo_live.training.diffusion import DiffusionLoss, channel_weight, place_weight
from emo_live.training.distil.tiny import PART_GAINS, TinyStudent, distances, parts
from emo_live.training.motion_data import MotionData
from emo_live.training.prior import PriorLayer
from emo_live.training.roll_out import Sampling, sample_window

CPU = torch.device("cpu")


def stub(**parts: Any) -> Any:
    """Something with the config of a model and what is given, and nothing else."""
    return SimpleNamespace(config=TINY.emo, **parts)


@pytest.fixture(scope="module")
def layer(prior: MotionPrior) -> PriorLayer:
    return PriorLayer(prior)


@pytest.fixture(scope="module")
def mask(data: MotionData) -> Tensor:
    return torch.stack([data.portrait(i)["mask"] for i in range(2)])


def test_shapes_are_what_speech_moves(arkit_names: tuple[str, ...]) -> None:
    assert list(arkit_names) == ["_neutral", *sorted(arkit_names[1:])] and len(arkit_names) == 52
    chosen = arkit_names[HEARD]
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


def test_a_still_offset_counts_in_every_part_and_once_more_at_lips_and_eyes() -> None:
    z, where = torch.zeros(1, 5, 4, 3, 3), torch.ones(1, 3, 3, 3)
    for offset in (0.5, 2.0):
        total = float(distances(z, z + offset, where, torch.ones(4, 1, 1)))
        assert total == pytest.approx((sum(PART_GAINS) + 2) * offset, rel=0.02)


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


def test_noise_of_a_window_continues_that_of_the_one_before(prior: MotionPrior, layer: PriorLayer) -> None:
    torch.manual_seed(0)
    student: Any = SimpleNamespace(model=stub(prior=layer))
    both = unit_noise(layer, TinyStudent.noise(student, 8, torch.zeros(900, 4, 16, 16, 16)))
    past, now = both[:, :4], both[:, 4:]
    assert past.shape == now.shape == (900, 4, 24) and prior.decay.max() > 0.5
    np.testing.assert_allclose((past[:, -1] * now[:, 0]).mean(0), prior.decay, atol=0.2)
    np.testing.assert_allclose(now.std((0, 1)), 1, atol=0.15)


def unit_noise(layer: PriorLayer, noise: Tensor) -> np.ndarray:
    """(B, T, K): noise (B, T, C, h, w) in components, each in units of its own spread."""
    components = noise.flatten(2) @ layer.readout
    unit = (layer.noise_basis @ layer.readout).diagonal()
    return (components / unit).numpy()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_roll_outs_sample_as_the_engine_does(prior: MotionPrior, layer: PriorLayer, steps: int) -> None:
    torch.manual_seed(0)
    noise = layer(torch.randn(1, 3, 16, 16, 16))

    def denoise(x: Tensor, t: Tensor, *_: Any) -> Tensor:
        return 0.3 * x + torch.sin(t.float() / 300)[:, :, None, None, None]

    given: Any = (None,) * 3
    model = stub(denoise=denoise, prior=layer)
    made = sample_window(model, noise, *given, torch.zeros(1), torch.zeros(1), Sampling(steps))

    def predict(x: Any, timestep: int) -> Any:
        return prior.projected(denoise(torch.from_numpy(x)[None], torch.full((1, 3), timestep))[0].numpy())

    engine = FewStepSampler(TINY.emo.schedule, steps).sample(noise[0].numpy(), predict)
    np.testing.assert_allclose(made[0].numpy(), engine, atol=5e-3)


def test_timesteps_are_shared_by_a_window_or_each_frames_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loss: Any = SimpleNamespace(device=CPU, schedule=NoiseSchedule(TINY.emo.schedule))
    torch.manual_seed(0)
    t = DiffusionLoss._times(loss, 600, 8).view(600, 8)
    own = (t != t[:, :1]).any(1)
    assert float(own.float().mean()) == pytest.approx(diffusion.OWN_TIMES, abs=0.05)
    assert t.min() < 20 and t.max() > 980 and t.max() < 1000
    assert len(t[:, 0].unique()) > 200


def test_motion_frames_are_blurred_and_sometimes_gone(layer: PriorLayer) -> None:
    torch.manual_seed(0)
    motion = torch.full((800, 2, 16, 16, 16), 5.0)
    loss: Any = SimpleNamespace(model=stub(prior=layer))
    out = DiffusionLoss.blurred(loss, motion)
    gone = (out == 0).flatten(1).all(1)
    assert float(gone.float().mean()) == pytest.approx(diffusion.MOTION_DROP, abs=0.03)
    left = out[~gone] - 5
    strengths = (left.flatten(2) @ layer.readout).std((1, 2))
    assert 0.1 < float(strengths.mean()) < 0.2 and float(strengths.max()) < 1.5 * diffusion.MOTION_NOISE
    assert float(strengths.min()) < 0.02, "some hardly at all"
    torch.testing.assert_close(layer(left), left, rtol=0, atol=1e-2)
