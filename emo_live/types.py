"""Data that crosses boundaries between parts: frozen, slotted, no behaviour beyond derived values.

Media time is an integer `index` of 40 ms steps (25 pictures a second). A *pair* is one picture and the sound heard
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emo_live.config import EmoConfig

FPS = 25
STEP_S = 1 / FPS
MODEL_RATE_HZ = 16_000
MODEL_STEP_SAMPLES = MODEL_RATE_HZ // FPS  # 640
OUTPUT_RATE_HZ = 48_000
OUTPUT_STEP_SAMPLES = OUTPUT_RATE_HZ // FPS  # 1920

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Int16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Sound as it arrived. pcm: (S,) float32 mono in [-1, 1]."""

    pcm: Float32
    rate_hz: int


@dataclass(frozen=True, slots=True)
class AVPair:
    """One picture and the 40 ms of sound heard with it; never split.

    video: (H, W, 3) uint8 RGB. audio: (1920,) int16 at 48 kHz. index: media time in 40 ms steps.
    """

    index: int
    video: UInt8
    audio: Int16


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned rectangle in picture pixels, x to the right, y down; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The weights of one published (or own) model on disk, as `emo_live.weights.open_model` found them.

    name: what it is called (`echomimic-acc`); model: the pipeline it belongs to (hallo, hallo2, joyhallo, echomimic).
    emo: safetensors file of LatentEmo(config); sound: wav2vec2's folder, or the whisper encoder's; vae: diffusers'
    AutoencoderKL folder; taesd: its AutoencoderTiny folder, None where it was not installed.
    """

    name: str
    model: str
    config: EmoConfig
    path: Path
    emo: Path
    sound: Path
    vae: Path
    taesd: Path | None


Stage = Literal["prepare", "render", "finish"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long call is. done and total count 40 ms steps; total is None while the length is unknown."""

    stage: Stage
    done: int
    total: int | None


ProgressCallback = Callable[[Progress], None]
