"""Sound features for training, computed exactly as the live window computes them: whisper on a bounded context.

One file a performance, NAME.npy (V, T / STRIDE + 1, KEPT, D) float16: V variants of the sound (the first is clean, the
others sound like microphones), and for every even frame e the newest tokens of the context that ends
`audio_look_ahead` frames after e.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES, TOKENS_PER_STEP, log_mel
from emo_live.audio.foreground import Listening, foreground
from emo_live.config import TINY
from emo_live.models.audio import WhisperEncoder
from emo_live.training.augment import augment
from emo_live.training.run import autocast
from emo_live.types import MODEL_STEP_SAMPLES, Float32

LONGEST = 8  # frames of the longest window
STRIDE = 2  # windows start and end at multiples of this
AHEAD = TINY.emo.audio_look_ahead
BEFORE = TINY.emo.audio_projection.frames // 2
KEPT = (LONGEST + BEFORE + AHEAD) * TOKENS_PER_STEP  # tokens kept of every context
BATCH = 32  # contexts at a time
BABBLERS = 4  # clips that may speak behind one


def whisper_encoder(checkpoint: Path) -> WhisperEncoder:
    """The truncated encoder with the weights of a published whisper-tiny.en file."""
    encoder = WhisperEncoder(TINY.whisper).eval()
    encoder.load_published(torch.load(checkpoint, map_location="cpu", weights_only=True)["model_state_dict"])
    return encoder.requires_grad_(False)


def contexts(pcm: Float32) -> Float32:
    """Every context that a window of this sound can end with, (T / STRIDE + 1, LEFT_SAMPLES + CONTEXT_SAMPLES), its
    background turned down."""
    pcm = foreground(pcm, Listening())[0]
    size, step = LEFT_SAMPLES + CONTEXT_SAMPLES, STRIDE * MODEL_STEP_SAMPLES
    padded = np.concatenate([np.zeros(size, np.float32), pcm, np.zeros(AHEAD * MODEL_STEP_SAMPLES, np.float32)])
    view = np.lib.stride_tricks.sliding_window_view(padded, size)
    return view[AHEAD * MODEL_STEP_SAMPLES :: step][: len(pcm) // step + 1]


@torch.no_grad()
def sound_features(whisper: WhisperEncoder, pcm: Float32) -> np.ndarray:
    """(T * 640,) -> (T / STRIDE + 1, KEPT, D): row e holds the last tokens before frame e * STRIDE + AHEAD."""
    rows, every = [], contexts(pcm)
    with autocast(torch.device("cpu")):
        for start in range(0, len(every), BATCH):
            heard = whisper(torch.from_numpy(log_mel(every[start : start + BATCH])))
            rows.append(heard[:, -KEPT:].half())
    return torch.cat(rows).numpy()


def prepare_sound(
    names: Sequence[str],
    heard: Callable[[str], Float32],
    out: Path,
    whisper: WhisperEncoder,
    *,
    variants: int,
    seed: int,
) -> None:
    """Writes NAME.npy for every name that lacks it. heard: its sound, (640 T,)."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = out / f"{name}.npy"
        if target.exists():
            continue
        random = np.random.default_rng([seed, *name.encode()])
        pcm = heard(name)
        others = [heard(names[i]) for i in random.integers(len(names), size=BABBLERS)]
        sounds = [pcm, *(augment(pcm, others, random) for _ in range(variants - 1))]
        part = target.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, np.stack([sound_features(whisper, sound) for sound in sounds]))
        part.replace(target)
