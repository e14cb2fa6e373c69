"""Stand-ins that tests share: sound files, an engine without a model, a backend that moves the mouth with the sound."""

from __future__ import annotations

import contextlib
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from emo_live import samples
from emo_live.avatar import Avatar
from emo_live.config import LIDS, POSE, TINY
from emo_live.engine.base import Prepared, WindowInputs
from emo_live.engine.motion_prior import FaceMotion, MotionPrior, raw_traits, readout_of
from emo_live.engine.pictures import FLOW_SIZE, MOUTH_SIZE, mouth_origin
from emo_live.engine.test_pattern import TestPatternEngine
from emo_live.render import RenderOptions
from emo_live.types import FPS, Float32, UInt8

PORTRAIT = samples.portrait()
LATENT = (TINY.autoencoder.latent_channels, TINY.autoencoder.latent_size, TINY.autoencoder.latent_size)
N_SHAPES, N_GESTURES = 3, LIDS.stop + POSE
N_TRAITS = len(raw_traits(np.zeros((478, 2), np.float32)))


@lru_cache
def bundled_avatar() -> Avatar:
    return Avatar.prepare(PORTRAIT)


def write_wav(path: Path, pcm: Float32, rate_hz: int = 16_000) -> Path:
    """pcm: (S,) or (S, C) in [-1, 1], stored with 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())
    return path


def syllables(duration_s: float, rate_hz: int = 16_000) -> Float32:
    """A humming tone that swells three times a second."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    tone = sum((np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 9)), np.zeros_like(t))
    return (0.2 * tone * np.sin(np.pi * 3 * t) ** 2).astype(np.float32)


def decode(path: Path) -> tuple[list[UInt8], Float32, int]:
    """Pictures (H, W, 3), sound (S, C) from time 0 on, its rate."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].pts == 0, "the sound starts with the pictures"
    return pictures, np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T, frames[0].sample_rate


@dataclass
class PatternEngines:
    """Opens test pattern engines and remembers what became of them; `fail_at` is the step at which one breaks."""

    size: int = 64
    fail_at: int | None = None
    opened: int = 0
    closed: int = 0

    @contextlib.contextmanager
    def __call__(self, options: RenderOptions) -> Iterator[Any]:
        self.opened += 1
        try:
            yield self._make
        finally:
            self.closed += 1

    def _make(self, avatar: Avatar) -> TestPatternEngine:
        engine = TestPatternEngine(self.size)
        if self.fail_at is not None:
            frames = engine.frames

            def failing() -> list[Any]:
                if engine.index >= self.fail_at:
                    raise RuntimeError("the engine broke")
                return frames()

            engine.frames = failing  # type: ignore[method-assign]
        return engine


def plain_prior(shape: tuple[int, int, int] = LATENT) -> MotionPrior:
    """Foretells rest, and gives every channel white noise of its own, the same in all its cells."""
    channels = shape[0]
    basis = np.repeat(np.eye(channels, dtype=np.float32), shape[1] * shape[2], axis=1)
    return MotionPrior(
        shape,
        basis,
        readout=readout_of(basis, np.ones(basis.shape[1], np.float32)),
        head=np.zeros(((N_TRAITS + 1) * POSE, channels), np.float32),
        fields=np.zeros((N_SHAPES + N_GESTURES - POSE + 1, 3, 2 * shape[1], 2 * shape[1]), np.float32),
        points=np.zeros(1, np.float32),
        mean_face=np.full((1, 2), 0.5, np.float32),
        unpatch=np.zeros((channels, 12), np.float32),
        patch=np.zeros((12, channels), np.float32),
        spread=np.ones(channels, np.float32),
        decay=np.zeros(channels, np.float32),
        trait_mean=np.zeros(N_TRAITS, np.float32),
        trait_scale=np.ones(N_TRAITS, np.float32),
    )


@dataclass
class FakeBackend:
    """Loud sound opens the mouth: latents are a little noise plus the level of the sound in the first channel."""

    name: str = "fake"
    prior: MotionPrior = field(default_factory=plain_prior)

    def prepare(self, avatar: Avatar) -> Prepared:
        return Prepared(
            avatar, avatar.portrait, mouth_origin(avatar.landmarks), FaceMotion(self.prior, avatar.landmarks), {}
        )

    def hear(self, mel: Float32) -> Float32:
        return mel.max(axis=0).reshape(-1, 2).mean(axis=1, keepdims=True)

    def shapes(self, sound: Float32) -> Float32:
        return np.zeros((len(sound) // 2 - 2 * (TINY.emo.audio_projection.frames // 2), N_SHAPES), np.float32)

    def gestures(self, noise: Float32, speed: float) -> Float32:
        return np.zeros((len(noise) - TINY.gestures.reach, N_GESTURES), np.float32)

    def denoise(self, avatar: Prepared, noisy: Float32, timestep: int, given: WindowInputs) -> Float32:
        sound, motion = given.sound, given.motion
        around = (len(sound) // 2 - len(noisy)) // 2
        level = np.clip(sound[2 * around : -2 * around].reshape(len(noisy), 2).mean(axis=1), 0, None)
        clean = 0.1 * noisy + 0.1 * motion[-1]
        clean[:, 0] += level[:, None, None]
        return -clean

    def motion(self, avatar: Prepared, latents: Float32) -> Float32:
        x, y = (v * FLOW_SIZE // 512 for v in avatar.mouth_origin)
        side = MOUTH_SIZE * FLOW_SIZE // 512
        out = np.zeros((len(latents), 3, FLOW_SIZE, FLOW_SIZE), np.float32)
        out[:, 0] = 0.5 * latents[:, 1].mean(axis=(1, 2))[:, None, None]
        out[:, 1, y : y + side, x : x + side] = latents[:, 0].mean(axis=(1, 2))[:, None, None]
        return out

    def paint(self, avatar: Prepared, warped: Float32, motion: Float32) -> Float32:
        out = np.full((len(warped), 4, MOUTH_SIZE, MOUTH_SIZE), -1, np.float32)
        rows, columns = np.mgrid[0:MOUTH_SIZE, 0:MOUTH_SIZE] - MOUTH_SIZE / 2
        opening = np.clip(motion[:, 1].mean(axis=(1, 2)), 0, None)[:, None, None]
        out[:, 3] = np.hypot(rows, columns)[None] < 10 * opening
        return out

    def close(self) -> None: ...


def n_steps(duration_s: float) -> int:
    """How many 40 ms steps a sound of that length makes."""
    return -(-round(duration_s * 1000) * FPS // 1000)
