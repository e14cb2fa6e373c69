"""How far live sound features are from those of the whole recording, by length of the context. Also a program:

PYTHONPATH=tests python tests/models/sound_drift.py SPEECH... [--sound FOLDER] [--windows 6]

Without FOLDER (`sound` of a model folder), a wav2vec2 of the published size with random weights. These show what the
structure does: convolutions that end, norms over another stretch of time, attention that cannot see what is not there.
They cannot show how much trained attention looks into the distance, so figures of trained weights may differ both ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.models.wav2vec import SoundFeatures
from emo_live.types import MODEL_STEP_SAMPLES, Float32

FRAMES, AROUND = 12, 2  # of a window, and neighbours on each side, the later ones being all look-ahead there is


@dataclass(frozen=True)
class Drift:
    """error: (blocks,) RMS difference in shares of the features' RMS around their mean; correlation: (blocks,)."""

    error: Tensor
    correlation: Tensor


def compared(live: Tensor, whole: Tensor) -> Drift:
    """(frames, blocks, D) both."""
    a, b = (x.float() - whole.float().mean(0) for x in (live, whole))
    error = ((a - b).square().mean((0, 2)) / b.square().mean((0, 2))).sqrt()
    a = a - a.mean(0)
    return Drift(error, (a * b).sum((0, 2)) / (a.square().sum((0, 2)) * b.square().sum((0, 2))).sqrt())


def windows_of(hear: SoundFeatures, pcm: Float32, ends: list[int], frames: int) -> Tensor:
    """Live features of the windows that end at these frames, (windows * frames, blocks * D)."""
    parts = []
    for end in ends:
        stop = end * MODEL_STEP_SAMPLES
        parts.append(hear(pcm[max(0, stop - hear.context_samples) : stop], frames).unflatten(0, (frames, -1)))
    return torch.cat(parts)


def drift(hear: SoundFeatures, whole: Tensor, pcm: Float32, ends: list[int]) -> Drift:
    """whole: (frames, blocks, D) of the recording, of which `pcm` is whole frames."""
    frames = FRAMES + 2 * AROUND
    return compared(windows_of(hear, pcm, ends, frames), torch.cat([whole[end - frames : end] for end in ends]))


def random_wav2vec() -> torch.nn.Module:
    from mini_checkpoint import randomised
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

    return randomised(Wav2Vec2Model(Wav2Vec2Config()))  # its defaults are the published base size


def speech(path: Path) -> Float32:
    """16 kHz, cut to whole frames."""
    import soundfile
    import soxr

    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    pcm = soxr.resample(pcm.mean(1), rate, 16_000).astype(np.float32)
    return pcm[: len(pcm) // MODEL_STEP_SAMPLES * MODEL_STEP_SAMPLES]


def table(make: Callable[[float], SoundFeatures], recordings: list[tuple[Float32, Tensor]], windows: int) -> None:
    print("context_s  relative error, first to last block | correlation")
    for context_s in (1, 2, 3, 5, 8, 12):
        hear, errors, correlations = make(context_s), [], []
        for pcm, whole in recordings:
            ends = np.linspace(len(whole) // 3, len(whole) - 2, windows).astype(int).tolist()
            found = drift(hear, whole, pcm, ends)
            errors.append(found.error)
            correlations.append(found.correlation)
        error, correlation = (torch.stack(x).mean(0).tolist() for x in (errors, correlations))
        print(f"{context_s:9} ", *(f"{x:.2f}" for x in error), "|", *(f"{x:.3f}" for x in correlation), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("speech", nargs="+", type=Path)
    parser.add_argument("--sound", type=Path)
    parser.add_argument("--windows", type=int, default=6)
    given = parser.parse_args()

    from emo_live.models.checkpoints.hallo_sound import offline_features
    from emo_live.models.wav2vec import Wav2Vec, Wav2VecFeatures

    device = torch.device("cpu")
    wav2vec = Wav2Vec.load(given.sound, device, torch.float32) if given.sound else Wav2Vec(random_wav2vec())
    recordings = [(pcm, offline_features(wav2vec, pcm)) for pcm in map(speech, given.speech)]
    table(lambda context_s: Wav2VecFeatures(wav2vec, context_s), recordings, given.windows)


if __name__ == "__main__":
    main()
