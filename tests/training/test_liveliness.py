"""Velocity energy of the model against true tracks: a still face has none of it, the true motion has it all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBackend, bundled_avatar

from emo_live import samples
from emo_live.models.autoencoder import MotionBasis
from emo_live.training import liveliness
from emo_live.training.pack import Pack
from emo_live.types import MODEL_STEP_SAMPLES, Float32

FRAMES = 20


@pytest.mark.parametrize(
    ("made", "share"), [(lambda true: true, 1.0), (lambda true: 2 * true, 4.0), (np.zeros_like, 0.0)]
)
def test_energy_is_a_share_of_the_true_one(
    monkeypatch: pytest.MonkeyPatch,
    pack: Pack,
    basis: MotionBasis,
    tmp_path: Path,
    made: Callable[[Float32], Float32],
    share: float,
) -> None:
    name = pack.portraits("train")[0]
    true = np.random.default_rng(0).normal(size=(FRAMES, 16, 16, 16)).astype(np.float32)
    (tmp_path / "tracks").mkdir()
    np.savez(
        tmp_path / "tracks" / f"{name}.npz",
        names=np.array(["a"]),
        z0=true,
        portrait=np.zeros((256, 256, 3), np.uint8),
        outline=np.zeros((478, 2)),
    )
    monkeypatch.setattr(pack, "portrait", lambda name: samples.portrait())
    monkeypatch.setattr(liveliness, "perform", lambda pack, name: type("Show", (), {"pcm": None}))
    monkeypatch.setattr(liveliness, "_moved", lambda backend, avatar, pcm, speed: made(true))
    (found,) = liveliness.energies(FakeBackend(), pack, tmp_path, basis, [name], 6)
    assert found == pytest.approx(share, abs=1e-6)


def test_the_window_makes_a_latent_for_every_step_of_sound() -> None:
    pcm = np.zeros(FRAMES * MODEL_STEP_SAMPLES + 5, np.float32)
    assert len(liveliness._moved(FakeBackend(), bundled_avatar(), pcm, 6)) == FRAMES
