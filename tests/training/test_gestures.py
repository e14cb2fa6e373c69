"""Gestures: causal, the same in windows of any length, and a score that is smallest for draws like the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emo_live.config import LIDS, POSE, TINY
from emo_live.models.gestures import GESTURES, Gestures
from emo_live.training import gestures as stage
from emo_live.training.gestures import CALMEST, GROUPS, SPAN, GestureLoss, distances, figures, stretches
from emo_live.training.motion_data import MotionData, mirrored_pose
from emo_live.training.run import Budget, load_weights, optimizers

REACH, N = TINY.gestures.reach, TINY.gestures.noise


@pytest.fixture
def model() -> Gestures:
    torch.manual_seed(0)
    return Gestures(TINY.gestures).eval()


def test_a_frame_follows_from_the_noise_up_to_it(model: Gestures) -> None:
    noise, speed = torch.randn(1, REACH + 12, N), torch.tensor([4.0])
    whole = model(noise, speed)
    assert whole.shape == (1, 12, GESTURES)
    later = noise.clone()
    later[:, REACH + 8 :] += 1
    torch.testing.assert_close(model(later, speed)[:, :8], whole[:, :8])
    assert not torch.allclose(model(later, speed)[:, 8], whole[:, 8])
    earlier = noise.clone()
    earlier[:, TINY.gestures.inertia_taps] += 100
    assert not torch.allclose(model(earlier, speed)[:, 0], whole[:, 0], rtol=0, atol=1e-7), "it reaches back far"


@pytest.mark.parametrize("start", [0, 3, 9])
def test_windows_of_any_length_agree(model: Gestures, start: int) -> None:
    noise, speed = torch.randn(1, REACH + 12, N), torch.tensor([4.0])
    part = model(noise[:, start : start + REACH + 3], speed)
    torch.testing.assert_close(part, model(noise, speed)[:, start : start + 3], rtol=0, atol=1e-5)


def test_smoothing_keeps_the_strength_of_noise(model: Gestures) -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.conv1d(torch.randn(200, N, TINY.gestures.taps), model.smoothing, groups=N)
    np.testing.assert_allclose(smooth.std(0).numpy(), 1, atol=0.2)


def test_lids_are_where_they_are_thought_to_be(arkit_names: tuple[str, ...]) -> None:
    assert list(arkit_names[LIDS]) == ["eyeBlinkLeft", "eyeBlinkRight"]
    assert sorted(i for group in GROUPS for i in group) == list(range(GESTURES))


def test_stretches_are_parts_of_the_tracks(data: MotionData) -> None:
    batch = next(stretches(data, 6, seed=0))
    assert batch["gestures"].shape == (6, SPAN, GESTURES) and (batch["speed"] >= 0).all()
    for row in batch["gestures"]:
        mirrored = torch.cat([row[:, data.mirrored[:23]], mirrored_pose(row[:, -POSE:])], 1)
        found = [place_of(data, part.numpy()) for part in (row, mirrored)]
        assert any(found)


def place_of(data: MotionData, part: np.ndarray) -> bool:
    """Whether a track has this stretch, with its head calmed or not."""
    for track in data.tracks:
        for i in range(len(track.arkit) - SPAN + 1):
            if np.abs(track.arkit[i : i + SPAN, :23] - part[:, :23]).max() < 1e-6:
                pose = track.pose[i : i + SPAN]
                calm = float((part[:, -POSE:] * pose).sum() / np.square(pose).sum())
                return CALMEST <= calm <= 1 and bool(np.abs(calm * pose - part[:, -POSE:]).max() < 1e-5)
    return False


def test_the_score_is_smallest_for_draws_like_the_truth() -> None:
    """Of draws that are still, too calm, right, and too wild."""
    torch.manual_seed(0)
    truth, first, second = (torch.randn(1500, SPAN, GESTURES) for _ in range(3))

    def score(size: float) -> float:
        a, b = size * first, size * second
        miss = (distances(a, truth) + distances(b, truth)).mean() / 2
        return float(miss - distances(a, b).mean() / 2)

    scores = {size: score(size) for size in (0.0, 0.6, 1.0, 1.5)}
    assert min(scores, key=lambda size: scores[size]) == 1.0


def test_the_loss_falls(data: MotionData, model: Gestures) -> None:
    torch.manual_seed(0)
    loss, batch = GestureLoss(model), next(stretches(data, 8, seed=0))
    optims, measured = optimizers(model, 1e-2, 2e-3), []
    for _ in range(12):
        value = loss(batch)["loss"]
        value.backward()
        for optim in optims:
            optim.step()
            optim.zero_grad()
        measured.append(float(value.detach()))
    assert np.mean(measured[-3:]) < 0.9 * np.mean(measured[:2])


def test_a_run_leaves_what_export_needs(data: MotionData, tmp_path: Path) -> None:
    stage.train(data, tmp_path, Budget(5, 1, 2, 0))
    made = Gestures(TINY.gestures)
    load_weights(made, tmp_path)
    every = np.concatenate([np.concatenate([t.arkit[:, :23], t.pose], 1) for t in data.tracks])
    np.testing.assert_allclose(made.mean.numpy(), every.mean(0), atol=1e-4)


def test_figures_count_blinks_and_turns() -> None:
    gestures = np.zeros((250, GESTURES), np.float32)
    for start in (20, 100, 200):
        gestures[start : start + 4, LIDS] = 1
    gestures[:, -POSE] = np.deg2rad(10) * np.arange(250) / 250
    found = figures(gestures)
    assert found["blinks_per_min"] == pytest.approx(18) and found["deepest_lids"] == 1
    assert found["head_speed"] == pytest.approx(1, rel=0.02) and found["jerk"] < 1e-3
