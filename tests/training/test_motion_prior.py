"""The motion prior: training and engine compute the same, noise has the memory it should, faces stay faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emo_live.config import TINY
from emo_live.engine.motion_prior import TAPS, FaceMotion, FrameNoise, MotionPrior, WhiteNoise
from emo_live.errors import EngineError
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.hearing import HEARD, Hearing
from emo_live.training.basis import mirror_signs
from emo_live.training.motion_data import MotionData
from emo_live.training.prior import PriorLayer
from emo_live.training.teacher import Teacher

SHAPE = (16, 16, 16)
SHAPES = HEARD.stop - HEARD.start


@pytest.fixture(scope="module")
def layer(prior: MotionPrior) -> PriorLayer:
    return PriorLayer(prior)


def wanted(decay: np.ndarray, lag: int) -> np.ndarray:
    """(K,) correlation of frames `lag` apart, of noise filtered by decay ** k for k < TAPS."""
    powers = decay[:, None] ** np.arange(TAPS)
    found: np.ndarray = (powers[:, lag:] * powers[:, : TAPS - lag]).sum(1) / np.square(powers).sum(1)
    return found


def test_components_are_read_as_they_are_drawn(prior: MotionPrior) -> None:
    assert prior.basis.shape == (24, 4096)
    np.testing.assert_allclose(prior.basis @ prior.readout, np.eye(24), atol=2e-3)


def test_same_white_noise_same_frames(prior: MotionPrior, layer: PriorLayer) -> None:
    white = np.random.default_rng(0).standard_normal((TAPS + 4, 24), dtype=np.float32)
    engine = FrameNoise(0, prior)
    engine._white._drawn = {i - TAPS + 1: frame for i, frame in enumerate(white)}
    frames = engine.frames(0, 5)
    drawn = layer.noise(torch.from_numpy(np.stack([white, white[::-1]])), torch.Size(SHAPE))
    assert drawn.shape == (2, 5, *SHAPE)
    np.testing.assert_allclose(drawn[0].numpy(), frames, atol=1e-4)


def test_statistics_in_training(prior: MotionPrior, layer: PriorLayer) -> None:
    torch.manual_seed(0)
    noise = layer.noise(layer.white(3000, TAPS + 6), torch.Size(SHAPE))
    check_statistics(prior, (noise.flatten(2) @ layer.readout).numpy())


def test_statistics_in_the_engine(prior: MotionPrior) -> None:
    engines = [FrameNoise(seed, prior) for seed in range(500)]
    noise = np.stack([engine.frames(0, 4) for engine in engines])
    check_statistics(prior, noise.reshape(500, 4, -1) @ prior.readout, slack=2.5)


def check_statistics(prior: MotionPrior, components: np.ndarray, slack: float = 1.0) -> None:
    """(B, T, K): normal, as wide as what is left of each component, with its memory, and independent of each other."""
    components = components * (prior.scale / prior.spread)
    np.testing.assert_allclose(components.std((0, 1)), 1, atol=0.06 * slack)
    np.testing.assert_allclose(components.mean((0, 1)), 0, atol=0.08 * slack)
    for lag in (1, 3):
        a, b = components[:, :-lag], components[:, lag:]
        np.testing.assert_allclose((a * b).mean((0, 1)), wanted(prior.decay, lag), atol=0.08 * slack)
    between = np.corrcoef(components[:, 0].T) - np.eye(components.shape[2])
    assert np.abs(between).max() < 0.12 * slack


def test_memories(prior: MotionPrior) -> None:
    assert prior.decay.min() >= 0 and prior.decay.max() <= 0.96 and np.ptp(prior.decay) > 0.1
    np.testing.assert_allclose(np.linalg.norm(prior.filters(), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("index", [0, 7, 300])
def test_a_frame_depends_on_seed_and_index_only(prior: MotionPrior, index: int) -> None:
    fresh, used = FrameNoise(5, prior).frames(index, index + 2), FrameNoise(5, prior)
    for other in (3, 290, 0, 150, 8):
        used.frames(other, other + 3)
    np.testing.assert_array_equal(used.frames(index, index + 2), fresh)
    assert np.abs(FrameNoise(6, prior).frames(index, index + 1) - fresh[0]).max() > 0.5
    assert np.abs(fresh[1] - fresh[0]).max() > 0.05


def test_noises_of_different_use_have_nothing_in_common() -> None:
    streams = [WhiteNoise(5, stream, 400, 4).frames(-4, 20) for stream in (0, 1)]
    assert abs(np.corrcoef(streams[0].ravel(), streams[1].ravel())[0, 1]) < 0.05


def test_layer_and_engine_compute_the_same(prior: MotionPrior, layer: PriorLayer, data: MotionData) -> None:
    random, row = np.random.default_rng(0), data.window(data.tracks[0], 20, 8, 0)
    shapes, z, gestures = random.random((8, SHAPES), dtype=np.float32), row["z"].numpy(), row["gestures"]
    with torch.autocast("cpu", torch.bfloat16):  # in full precision all the same
        projected = layer(row["z"][None])
        anchor = layer.anchor(torch.from_numpy(shapes)[None], gestures[None], row["outline"][None])
    np.testing.assert_allclose(projected[0].numpy(), prior.projected(z), atol=2e-3)
    engine = FaceMotion(prior, row["outline"].numpy()).anchor(shapes, gestures.numpy())
    np.testing.assert_allclose(anchor[0].numpy(), engine, atol=1e-3 * np.abs(engine).max())  # fields are half floats
    assert anchor.std() > 0.05


def test_latents_and_fields(prior: MotionPrior, basis: MotionBasis, data: MotionData) -> None:
    """As the autoencoder's basis has them."""
    z = data.window(data.tracks[0], 20, 8, 0)["z"]
    fields = basis.decode(z)
    np.testing.assert_allclose(prior.decode(z.numpy()), fields.numpy(), atol=1e-4)
    np.testing.assert_allclose(prior.encode(fields.numpy()), basis.encode(fields).numpy(), atol=1e-4)


def test_channels_of_a_mirrored_face(layer: PriorLayer, basis: MotionBasis) -> None:
    torch.testing.assert_close(layer.signs[:, 0, 0], mirror_signs(basis))


def data_outline() -> Path:
    return Path(__file__).resolve().parents[1] / "data" / "training" / "faker_female_4_track.npz"


def test_projecting_twice_is_projecting_once(layer: PriorLayer, data: MotionData) -> None:
    z = data.window(data.tracks[1], 30, 8, 0)["z"][None]
    once = layer(z)
    torch.testing.assert_close(layer(once), once, rtol=0, atol=1e-2)
    assert (z - once).square().mean() < 0.35 * z.square().mean(), "real motion is mostly kept"
    strange = torch.randn(1, 8, *SHAPE) * z.std()
    assert layer(strange).square().mean() < 0.1 * strange.square().mean(), "what no face does is not"


def test_the_prior_foretells(prior_file: tuple[Path, dict[str, float]], layer: PriorLayer, data: MotionData) -> None:
    assert 0.3 < prior_file[1]["foretold"] <= 1
    left = moved = 0.0
    for track in data.tracks:
        for start in range(8, 48, 8):
            row = {name: value[None] for name, value in data.window(track, start, 8, 0).items()}
            foretold = layer.anchor(row["arkit"][..., HEARD], row["gestures"], row["outline"])
            left += float((layer(row["z"]) - foretold).square().mean())
            moved += float(layer(row["z"]).square().mean())
    assert left < 0.7 * moved


def test_a_mirrored_window_has_a_mirrored_anchor(prior: MotionPrior, hearing: Hearing, data: MotionData) -> None:
    model = Teacher(TINY, prior, hearing)
    row = data.window(data.tracks[0], 20, 8, 0)
    plain, turned = (
        model.anchor({name: value[None] for name, value in which.items()}) for which in (row, data.mirror(row))
    )
    torch.testing.assert_close(turned, plain.flip(-1) * model.prior.signs)
    assert not torch.allclose(turned, plain, atol=0.05)


def test_traits_of_strange_faces_are_bounded(prior: MotionPrior) -> None:
    points = np.random.default_rng(0).uniform(0, 1, (478, 2)).astype(np.float32)
    traits = prior.traits(points)
    assert traits[0] == 1 and np.abs(traits).max() <= 3


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="reinstall"):
        MotionPrior.load(tmp_path / "prior.npz")
