"""Training hears exactly what the rolling window hears, whatever is computed beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeBackend, bundled_avatar

from emo_live.audio import foreground
from emo_live.audio.features import TOKENS_PER_STEP, log_mel
from emo_live.config import TINY
from emo_live.engine.base import Prepared, WindowInputs
from emo_live.engine.motion_prior import MotionPrior
from emo_live.engine.tiny import LIVE, LOOK_AHEAD, NEIGHBOURS, tiny_window
from emo_live.engine.window import WindowPolicy
from emo_live.models.audio import WhisperEncoder
from emo_live.models.gestures import GESTURES
from emo_live.models.hearing import HEARD
from emo_live.training import sound
from emo_live.training.pack import Pack
from emo_live.training.performance import perform
from emo_live.training.sound import AHEAD, BEFORE, KEPT, LONGEST, STRIDE, contexts, prepare_sound, sound_features
from emo_live.types import MODEL_STEP_SAMPLES, Float32


class Listening(FakeBackend):
    """Remembers the sound of every window: the picture of the context, and how many tokens were used."""

    def __init__(self, prior: MotionPrior) -> None:
        super().__init__(prior=prior)
        self.heard: list[Float32] = []
        self.used: list[int] = []

    def hear(self, mel: Float32) -> Float32:
        self.heard.append(mel)
        return super().hear(mel)

    def shapes(self, sound: Float32) -> Float32:
        return np.zeros((len(sound) // TOKENS_PER_STEP - 2 * NEIGHBOURS, HEARD.stop - HEARD.start), np.float32)

    def gestures(self, noise: Float32, speed: float) -> Float32:
        return np.zeros((len(noise) - TINY.gestures.reach, GESTURES), np.float32)

    def denoise(self, avatar: Prepared, noisy: Float32, timestep: int, given: WindowInputs) -> Float32:
        self.used.append(len(given.sound))
        return super().denoise(avatar, noisy, timestep, given)


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperEncoder]:
    torch.manual_seed(0)
    yield WhisperEncoder(TINY.whisper).eval().requires_grad_(False)


def windows(pcm: Float32, policy: WindowPolicy, prior: MotionPrior) -> tuple[list[int], Listening]:
    """The frames that windows ended before, in order, and what they heard."""
    backend, ends = Listening(prior), []
    window = tiny_window(backend, backend.prepare(bundled_avatar()), size=256, policy=policy)
    window.generator.pictures = lambda latents: lambda: [None] * len(latents)  # type: ignore[method-assign, assignment, return-value]
    steps = pcm.reshape(-1, MODEL_STEP_SAMPLES)
    for i, step in enumerate(steps):
        window.push(step)
        if i == len(steps) - 1:
            window.finish()
        for frame in window.frames():
            ends.append(frame.index + 1)
    return ends, backend


@pytest.mark.parametrize(("policy", "frames"), [(LIVE, 26), (WindowPolicy((8,)), 64), (WindowPolicy((2,)), 12)])
def test_contexts_end_where_the_live_window_ends(
    speech: tuple[Float32, ...], prior: MotionPrior, policy: WindowPolicy, frames: int
) -> None:
    pcm = speech[0][: frames * MODEL_STEP_SAMPLES]
    ends, backend = windows(pcm, policy, prior)
    assert ends == list(range(1, frames + 1))
    lengths = [policy.length(k) for k in range(len(backend.heard))]
    rows = log_mel(contexts(pcm))
    assert len(rows) == frames // STRIDE + 1
    for end, mel in zip(np.cumsum(lengths), backend.heard, strict=True):
        np.testing.assert_allclose(rows[end // STRIDE], mel, rtol=0, atol=1e-6)


def test_a_window_uses_tokens_that_are_kept(speech: tuple[Float32, ...], prior: MotionPrior) -> None:
    _, backend = windows(speech[0][: 26 * MODEL_STEP_SAMPLES], LIVE, prior)
    assert backend.used[:3] == [(n + 2 * NEIGHBOURS) * TOKENS_PER_STEP for n in (2, 4, 4)]
    assert (AHEAD, BEFORE) == (LOOK_AHEAD, NEIGHBOURS)
    assert KEPT == (LONGEST + 2 * NEIGHBOURS) * TOKENS_PER_STEP


def test_the_first_context_is_silence_and_what_comes_ahead(speech: tuple[Float32, ...]) -> None:
    pcm = speech[1][: 10 * MODEL_STEP_SAMPLES]
    rows, ahead = contexts(pcm), AHEAD * MODEL_STEP_SAMPLES
    pcm = foreground.foreground(pcm, foreground.Listening())[0]
    assert not rows[0, :-ahead].any()
    np.testing.assert_array_equal(rows[0, -ahead:], pcm[:ahead])
    assert not rows[-1, -ahead:].any(), "behind the end there is silence"
    np.testing.assert_array_equal(rows[-1, -ahead - len(pcm) : -ahead], pcm)


@pytest.mark.parametrize("frames", [10, 11])
def test_features_do_not_depend_on_their_batch(
    whisper: WhisperEncoder, speech: tuple[Float32, ...], frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pcm = speech[0][20 * MODEL_STEP_SAMPLES : (20 + frames) * MODEL_STEP_SAMPLES]
    together = sound_features(whisper, pcm)
    assert together.shape == (6, KEPT, TINY.whisper.width) and together.dtype == np.float16
    monkeypatch.setattr(sound, "BATCH", 4)
    np.testing.assert_allclose(sound_features(whisper, pcm), together, rtol=0, atol=0.02)
    alone = torch.cat([whisper(torch.from_numpy(log_mel(row[None]))) for row in contexts(pcm)])[:, -KEPT:]
    np.testing.assert_allclose(together, alone.numpy(), rtol=0, atol=0.06)  # bf16 where the CPU has it
    assert np.abs(np.diff(together.astype(np.float32), axis=0)).max() > 0.2, "rows differ by more than that"


def test_files_are_whole_named_and_made_once(pack: Pack, whisper: WhisperEncoder, tmp_path: Path) -> None:
    names = ["made_1", "real_2~paused"]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(sound, "sound_features", lambda encoder, pcm: np.full((1, 2), np.abs(pcm).sum(), np.float16))
        prepare_sound(names, lambda name: perform(pack, name).pcm, tmp_path, whisper, variants=3, seed=0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["made_1.npy", "real_2~paused.npy"]
        first = np.load(tmp_path / "made_1.npy")
        assert first.shape == (3, 1, 2) and len({float(row[0, 0]) for row in first}) == 3, (
            "clean, and two like microphones"
        )
        (tmp_path / "made_1.npy").unlink()
        (tmp_path / "real_2~paused.npy").write_bytes(b"kept")
        prepare_sound(names, lambda name: perform(pack, name).pcm, tmp_path, whisper, variants=3, seed=0)
    np.testing.assert_array_equal(np.load(tmp_path / "made_1.npy"), first)
    assert (tmp_path / "real_2~paused.npy").read_bytes() == b"kept"
