"""What Hallo's and Hallo2's published pipelines do with whole recordings. For parity, and to measure live sound by.

Recordings are normalised before they are filled up with silence to whole clips; the silence is counted in whole frames
behind a last frame that is not whole, so that the features are stretched a little. Hallo2 takes segments one by one.
Facts: tests/golden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.models.wav2vec import Wav2Vec, normalised
from emo_live.types import MODEL_STEP_SAMPLES, Float32

SEGMENT_S = 60  # of Hallo2


def frames_of(samples: int) -> int:
    """Frames of a recording, the last one begun at least."""
    return -(-samples // MODEL_STEP_SAMPLES)


def padded(pcm: Float32, clip: int | None, before: int = 0) -> tuple[Tensor, int]:
    """(S,) -> normalised and filled up samples, and their frames. clip: frames that make one; before: earlier frames.

    `before` counts only where this sound alone does not fill clips: Hallo2's habit.
    """
    frames = frames_of(len(pcm))
    missing = -(before + frames) % clip if clip is not None and frames % clip else 0
    samples = normalised(torch.from_numpy(pcm))
    return F.pad(samples, (0, missing * MODEL_STEP_SAMPLES)), frames + missing


def offline_features(wav2vec: Wav2Vec, pcm: Float32, clip: int | None = None) -> Tensor:
    """A whole recording, (S,) at 16 kHz -> (frames, layers, D). clip: as in `padded`."""
    samples, frames = padded(pcm, clip)
    return wav2vec.states(samples.to(wav2vec.device), frames)


def segment_features(wav2vec: Wav2Vec, segments: Sequence[Float32], clip: int) -> list[Tensor]:
    """Hallo2: each segment normalised and heard by itself, the last one filled up."""
    features: list[Tensor] = []
    for i, pcm in enumerate(segments):
        last = i == len(segments) - 1
        samples, frames = padded(pcm, clip if last else None, sum(map(len, features)))
        features.append(wav2vec.states(samples.to(wav2vec.device), frames))
    return features


def frame_windows_clamped(features: Tensor, context: int = 2) -> Tensor:
    """(frames, layers, D) of a recording -> (frames, 2 context + 1, layers, D); its ends stand for what is beyond."""
    around = torch.arange(-context, context + 1, device=features.device)
    places = torch.arange(len(features), device=features.device)[:, None] + around
    return features[places.clamp(0, len(features) - 1)]
