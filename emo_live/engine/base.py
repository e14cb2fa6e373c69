"""What the rolling window asks of a tensor backend, and what the rest of the library asks of an engine.

A backend does tensor work for one model and knows nothing of time; arrays are float32 numpy at this boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from emo_live.avatar import Avatar
from emo_live.engine.motion_prior import FaceMotion, MotionPrior
from emo_live.types import Float32, Int16, UInt8


@dataclass(frozen=True, slots=True)
class Prepared:
    """An avatar as one backend wants it: computed once, used for every window.

    portrait: (512, 512, 3) uint8; mouth_origin: x, y px of the painted square in it; face: how it moves before the
    network is asked; features: the backend's own.
    """

    avatar: Avatar
    portrait: UInt8
    mouth_origin: tuple[int, int]
    face: FaceMotion
    features: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WindowInputs:
    """What a window is generated from, the avatar apart.

    motion: (n, 16, 16, 16) motion frames; anchor: (T, 16, 16, 16), what the prior foretells; sound: ((T + 2m) * 2, D);
    speed: (T + 2m,) degrees a second.
    """

    motion: Float32
    anchor: Float32
    sound: Float32
    speed: Float32


class Backend(Protocol):
    """Tensor work of one model. n motion frames, T frames of a window, latents (16, 16, 16).

    prior: the linear motion model that the latents are generated around.
    """

    name: str
    prior: MotionPrior

    def prepare(self, avatar: Avatar) -> Prepared: ...

    def hear(self, mel: Float32) -> Float32:
        """(80, 160) log-mel -> (L, D) newest sound features, oldest first."""

    def shapes(self, sound: Float32) -> Float32:
        """((T + 2m) * 2, D) sound features -> (T, S) mouth shapes that are heard."""

    def gestures(self, noise: Float32, speed: float) -> Float32:
        """(reach + T, N) white noise, degrees a second -> (T, G) upper face and head pose (models/gestures.py)."""

    def denoise(self, avatar: Prepared, noisy: Float32, timestep: int, given: WindowInputs) -> Float32:
        """v-prediction of deviations from the anchor, (T, 16, 16, 16) each."""

    def motion(self, avatar: Prepared, latents: Float32) -> Float32:
        """(T, 16, 16, 16) -> (T, 3, 128, 128): backward flow x, y in px of 128 and hole share."""

    def paint(self, avatar: Prepared, warped: Float32, motion: Float32) -> Float32:
        """(T, 3, 144, 144) in [-1, 1], (T, 3, 36, 36) -> (T, 4, 144, 144): colour and share of it."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineFrame:
    """A picture and the sound it belongs to.

    index counts 40 ms steps; video: (H, W, 3) uint8 RGB; heard: (1920,) int16 at 48 kHz, or None.
    """

    index: int
    video: UInt8
    heard: Int16 | None = None


class Engine(Protocol):
    """Speech in steps of 640 samples in, pictures in the same number out. Not thread-safe; one session each.

    shape: (H, W) of the pictures.
    """

    shape: tuple[int, int]

    def push(self, pcm: Float32) -> None: ...

    def finish(self) -> None:
        """The utterance is over: what is still owed comes without waiting for more sound."""

    def frames(self) -> list[EngineFrame]:
        """Every picture that can be made now."""

    def cancel(self) -> None:
        """Thread-safe: a window in progress stops before its next denoising step and its frames are dropped."""

    def rewind(self, index: int) -> None:
        """Frames from `index` on were not shown: go on from the last one that was."""
