"""The linear basis of motion latents: an orthonormal PCA that keeps nearly everything and knows left from right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_live.models.autoencoder import HOLE_GAIN, MotionBasis
from emo_live.training.basis import _cell_weights, fit_basis, load_basis, mirror_signs, save_basis
from emo_live.training.frame_data import Shard
from emo_live.training.roll_out import velocity_energy
from emo_live.training.shards import as_motion, to_latents

GAINS = torch.tensor([1.0, 1.0, HOLE_GAIN])[:, None, None]


def mirrored(motion: Tensor) -> Tensor:
    """What a mirrored picture's motion is: columns the other way round, x flow negated."""
    return motion.flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]


@pytest.fixture(scope="module")
def motion(shards: list[Shard]) -> Tensor:
    return torch.cat([as_motion(shard.motion) for shard in shards])


@pytest.fixture(scope="module")
def fitted(shards: list[Shard]) -> tuple[MotionBasis, float]:
    return fit_basis(shards)


@pytest.fixture(params=["kept", "refitted"])
def either(request: pytest.FixtureRequest, basis: MotionBasis, fitted: tuple[MotionBasis, float]) -> MotionBasis:
    """The basis of a whole training, and one fitted to eight frames."""
    return {"kept": basis, "refitted": fitted[0]}[request.param]


def test_columns_are_orthonormal(either: MotionBasis) -> None:
    gram = either.basis.T @ either.basis
    torch.testing.assert_close(gram, torch.eye(16), rtol=0, atol=1e-4)
    assert (either.scale.diff() <= 0).all() and either.scale.min() > 0, "strongest first"


def test_mirroring_is_flipping_and_signs(either: MotionBasis, motion: Tensor) -> None:
    signs = mirror_signs(either)
    assert set(signs.tolist()) == {-1.0, 1.0}
    z = either.encode(motion)
    expected = z.flip(-1) * signs[:, None, None]
    torch.testing.assert_close(either.encode(mirrored(motion)), expected, rtol=0, atol=2e-3 * float(z.abs().max()))
    torch.testing.assert_close(either.decode(expected), mirrored(either.decode(z)), rtol=0, atol=2e-2)


def test_decoding_keeps_the_energy(either: MotionBasis, motion: Tensor) -> None:
    back = either.decode(either.encode(motion))
    total, kept, lost = ((x * GAINS).square().sum() for x in (motion, back, motion - back))
    torch.testing.assert_close(kept + lost, total, rtol=1e-3, atol=0)
    assert lost < 0.06 * total


def test_share_of_the_energy(fitted: tuple[MotionBasis, float], shards: list[Shard]) -> None:
    _, kept = fitted
    assert 0.94 < kept < 1
    _, kept_of_one = fit_basis(shards[:1])
    assert kept_of_one > kept, "one portrait needs fewer directions than two"


def test_latents_are_white_where_it_counts(fitted: tuple[MotionBasis, float], shards: list[Shard]) -> None:
    """Weighted as in the fit, latents of frames and of their mirror images have a mean square of 1 in every channel."""
    basis, _ = fitted
    powers = []
    for shard in shards:
        weight = torch.from_numpy(_cell_weights(shard.boxes, 16)).float()
        for motion, where in ((as_motion(shard.motion), weight), (mirrored(as_motion(shard.motion)), weight.flip(-1))):
            powers.append(torch.einsum("nchw,nhw->c", basis.encode(motion).square(), where) / where.sum())
    torch.testing.assert_close(torch.stack(powers).mean(0), torch.ones(16), rtol=0, atol=5e-3)


def test_tracks_are_encoded_like_frames(
    basis: MotionBasis, shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emo_live.training.shards.BATCH", 3)
    labels = shards[0].motion
    z = to_latents(basis, labels)
    assert z.dtype == np.float16 and z.shape == (4, 16, 16, 16)
    np.testing.assert_allclose(z, basis.encode(as_motion(labels)).numpy(), atol=1e-2, rtol=1e-3)


def test_labels_become_pixels() -> None:
    labels = np.full((1, 128, 128, 3), 0.5, np.float16)
    assert as_motion(labels)[0, :, 5, 7].tolist() == [64.0, 64.0, 0.5]


def test_a_file_gives_the_same_basis(basis: MotionBasis, tmp_path: Path) -> None:
    path = tmp_path / "basis.pt"
    save_basis(basis, path)
    again = load_basis(path)
    assert torch.equal(again.basis, basis.basis) and torch.equal(again.scale, basis.scale)


def test_velocity_energy_is_that_of_the_flow(basis: MotionBasis) -> None:
    z = torch.randn(9, basis.basis.shape[1], 4, 4, generator=torch.Generator().manual_seed(0))
    changes = basis.decode(z)[:, :2].diff(dim=0).square()
    expected = torch.nn.functional.avg_pool2d(changes.sum(1), basis.patch).mean(0)
    np.testing.assert_allclose(velocity_energy(z.numpy(), basis), expected, rtol=1e-4)
