"""The motion prior: training and engine compute the same, noise has the memory it should, faces stay faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emo_live.config import TINY
from emo_live.engine.motion_prior import TAPS, FrameNoise, MotionPrior, products, raw_traits
from emo_live.errors import EngineError
from emo_live.models.hearing import HEARD, Hearing
from emo_live.training.motion_data import MotionData
from emo_live.training.prior import PriorLayer

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
    engine._white = {i - TAPS + 1: frame for i, frame in enumerate(white)}
    frames = np.stack([engine(i) for i in range(5)])
    drawn = layer.noise(torch.from_numpy(np.stack([white, white[::-1]])), torch.Size(SHAPE))
    assert drawn.shape == (2, 5, *SHAPE)
    np.testing.assert_allclose(drawn[0].numpy(), frames, atol=1e-4)


def test_statistics_in_training(prior: MotionPrior, layer: PriorLayer) -> None:
    torch.manual_seed(0)
    noise = layer.noise(layer.white(3000, TAPS + 6), torch.Size(SHAPE))
    components = (noise.flatten(2) @ layer.readout).numpy()
    check_statistics(prior, components)


def test_statistics_in_the_engine(prior: MotionPrior) -> None:
    engines = [FrameNoise(seed, prior) for seed in range(500)]
    noise = np.stack([[engine(i) for i in (0, 1, 2, 3)] for engine in engines])
    check_statistics(prior, noise.reshape(500, 4, -1) @ prior.readout, slack=2.5)


def check_statistics(prior: MotionPrior, components: np.ndarray, slack: float = 1.0) -> None:
    """(B, T, K): normal in every component, with the memory of each, and independent of each other."""
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
    fresh = FrameNoise(5, prior)(index)
    used = FrameNoise(5, prior)
    for other in (3, 290, 0, 150, 8):
        used(other)
    np.testing.assert_array_equal(used(index), fresh)
    assert np.abs(FrameNoise(6, prior)(index) - fresh).max() > 0.5
    assert np.abs(FrameNoise(5, prior)(index + 1) - fresh).max() > 0.05


def test_layer_and_engine_compute_the_same(prior: MotionPrior, layer: PriorLayer, data: MotionData) -> None:
    random, row = np.random.default_rng(0), data.window(data.tracks[0], 20, 8, 0)
    shapes = random.random((8, SHAPES), dtype=np.float32)
    z, motion = row["z"].numpy(), row["motion"].numpy()
    raw = data.traits[data.tracks[0].portrait]
    with np.load(data_outline()) as file:
        traits = prior.traits(file["outline"])
    batch = [torch.from_numpy(x)[None] for x in (z, motion, shapes, np.asarray(raw, np.float32))]
    with torch.autocast("cpu", torch.bfloat16):  # in full precision all the same
        projected, deviation = layer(batch[0]), layer.deviation(batch[0])
        anchor = layer.anchor(*batch[1:])
    np.testing.assert_allclose(projected[0].numpy(), prior.projected(z), atol=2e-3)
    np.testing.assert_allclose(deviation[0].numpy(), prior.deviation(z), atol=2e-3)
    np.testing.assert_allclose(anchor[0].numpy(), prior.anchor(motion, shapes, traits), atol=5e-3)
    assert anchor.std() > 0.05 and deviation.std() > 0.005
    short = layer.anchor(batch[1], batch[2][:, :3], batch[3])
    torch.testing.assert_close(short, anchor[:, :3], rtol=0, atol=1e-4)


def data_outline() -> Path:
    return Path(__file__).resolve().parents[1] / "data" / "training" / "faker_female_4_track.npz"


def test_projecting_twice_is_projecting_once(layer: PriorLayer, data: MotionData) -> None:
    z = data.window(data.tracks[1], 30, 8, 0)["z"][None]
    once = layer(z)
    torch.testing.assert_close(layer(once), once, rtol=0, atol=1e-2)
    assert (z - once).square().mean() < 0.35 * z.square().mean(), "real motion is mostly kept"
    strange = torch.randn(1, 8, *SHAPE) * z.std()
    assert layer(strange).square().mean() < 0.1 * strange.square().mean(), "what no face does is not"


def test_the_prior_foretells(
    prior_file: tuple[Path, dict[str, float]], layer: PriorLayer, data: MotionData, hearing: Hearing
) -> None:
    shares = prior_file[1]
    assert 0.3 < shares["next"] <= 1 and shares["next"] > shares["last"] - 0.05
    left = moved = 0.0
    for track in data.tracks:
        for start in range(8, 48, 8):
            row = {name: value[None] for name, value in data.window(track, start, 8, 0).items()}
            foretold = layer.anchor(row["motion"], hearing(row["features"]), row["traits"])
            left += float((layer(row["z"]) - foretold).square().mean())
            moved += float(layer(row["z"]).square().mean())
    assert left < 0.7 * moved


def test_a_mirrored_face_has_mirrored_traits(data: MotionData) -> None:
    row = data.window(data.tracks[0], 20, 8, 0)
    turned = data.mirror(row)["traits"]
    assert float(turned[0]) == pytest.approx(1 - float(row["traits"][0]), abs=1e-6)
    assert torch.equal(turned[1:], row["traits"][1:])
    with np.load(data_outline()) as file:
        points = file["outline"]
    np.testing.assert_allclose(row["traits"].numpy(), raw_traits(points), atol=1e-6)
    swapped = points * [-1, 1] + [1, 0]
    for a, b in ((61, 291), (33, 263)):
        swapped[[a, b]] = swapped[[b, a]]
    np.testing.assert_allclose(raw_traits(swapped.astype(np.float32)), turned.numpy(), atol=1e-5)


def test_traits_multiply_shapes_and_stand_alone() -> None:
    out = products(np.float32([[2, 3]]), np.float32([1, 10]))
    assert out.tolist() == [[2, 3, 1, 20, 30, 10]]


def test_traits_of_strange_faces_are_bounded(prior: MotionPrior) -> None:
    points = np.random.default_rng(0).uniform(0, 1, (478, 2)).astype(np.float32)
    traits = prior.traits(points)
    assert traits[0] == 1 and np.abs(traits).max() <= 3


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="reinstall"):
        MotionPrior.load(tmp_path / "prior.npz")


def test_the_span_is_the_longest_window(prior: MotionPrior) -> None:
    from emo_live.training.sound import LONGEST

    assert len(prior.ahead) == len(prior.heard) == len(prior.spread) == TINY.prior.frames >= LONGEST
