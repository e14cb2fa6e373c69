"""How far live sound features are from those of the whole recording, by length of the context. Also a program:

PYTHONPATH=tests python tests/models/sound_drift.py SPEECH... [--sound FOLDER] [--windows 6]

FOLDER: `sound` of a model folder, Hallo's or EchoMimic's. Without it, a wav2vec2 of the published size with random
weights. These show what the structure does: convolutions that end, norms over another stretch of time, attention that
cannot see what is not there. They cannot show how much trained attention looks into the distance, so figures of trained
weights may differ both ways. Of whisper they show nothing: random layers hear its position codes above all, and live
sound lies at other positions.
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
    """error: (blocks,) norm of the difference in shares of the features' norm; correlation: (blocks,) of what changes
    with time."""

    error: Tensor
    correlation: Tensor


def compared(live: Tensor, whole: Tensor) -> Drift:
    """(frames, blocks, D) both."""
    a, b = live.float(), whole.float()
    error = (a - b).square().sum((0, 2)).sqrt() / b.square().sum((0, 2)).sqrt()
    a, b = a - a.mean(0), b - b.mean(0)
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


def table(
    make: Callable[[float], SoundFeatures], recordings: list[tuple[Float32, Tensor]], windows: int
) -> dict[float, Drift]:
    """Prints a line for each length of the context. recordings: sound, and (frames, blocks, D) of it as a whole."""
    print("context_s  relative error, first to last block | correlation")
    found: dict[float, Drift] = {}
    for context_s in (1, 2, 3, 5, 8, 12):
        hear, each = make(context_s), []
        for pcm, whole in recordings:
            ends = np.linspace(len(whole) // 3, len(whole) - 2, windows).astype(int).tolist()
            each.append(drift(hear, whole, pcm, ends))
        mean = Drift(*(torch.stack(x).mean(0) for x in zip(*((d.error, d.correlation) for d in each), strict=True)))
        columns = [*(f"{x:.2f}" for x in mean.error), "|", *(f"{x:.3f}" for x in mean.correlation)]
        print(f"{context_s:9} ", *columns, flush=True)
        found[context_s] = mean
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("speech", nargs="+", type=Path)
    parser.add_argument("--sound", type=Path)
    parser.add_argument("--windows", type=int, default=6)
    given = parser.parse_args()

    from emo_live.models.checkpoints.echomimic import ECHOMIMIC
    from emo_live.models.checkpoints.hallo_sound import offline_features
    from emo_live.models.wav2vec import Wav2Vec, Wav2VecFeatures
    from emo_live.models.whisper_sound import WhisperFeatures, WhisperSound

    device, recordings = torch.device("cpu"), [speech(path) for path in given.speech]
    if given.sound and (given.sound / "encoder.safetensors").exists():
        whisper = WhisperSound.load(given.sound, ECHOMIMIC.audio_projection, device, torch.float32)
        heard = [whisper.states(torch.from_numpy(pcm)).unflatten(0, (-1, 2)).flatten(1, 2) for pcm in recordings]
        make: Callable[[float], SoundFeatures] = lambda context_s: WhisperFeatures(whisper, context_s)  # noqa: E731
    else:
        wav2vec = Wav2Vec.load(given.sound, device, torch.float32) if given.sound else Wav2Vec(random_wav2vec())
        heard = [offline_features(wav2vec, pcm) for pcm in recordings]
        make = lambda context_s: Wav2VecFeatures(wav2vec, context_s)  # noqa: E731
    table(make, list(zip(recordings, heard, strict=True)), given.windows)


if __name__ == "__main__":
    main()
