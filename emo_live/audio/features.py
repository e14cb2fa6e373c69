"""Log-mel pictures of the last moments of sound, as whisper's encoder wants them, from a bounded context.

One context is CONTEXT_SAMPLES long plus LEFT_SAMPLES of older sound for the first analysis window. Unlike whisper's
offline front end nothing looks at the whole recording: levels are clamped against the context's own maximum.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from emo_live.types import MODEL_RATE_HZ, Float32

MELS = 80
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
TOKEN_SAMPLES = 2 * HOP  # whisper's encoder halves the rate: one token every 20 ms
TOKENS = 80
TOKENS_PER_STEP = 2
CONTEXT_SAMPLES = TOKENS * TOKEN_SAMPLES  # 1.6 s
LEFT_SAMPLES = WINDOW // 2
# log10 of mel power that counts as the maximum where everything is quieter: room noise is not blown up to speech.
QUIET = 0.0


@cache
def mel_filters(mels: int = MELS) -> Float32:
    """(mels, WINDOW / 2 + 1) triangles on Slaney's mel scale, each of unit area."""
    edge = np.linspace(0, _to_mel(MODEL_RATE_HZ / 2), mels + 2)
    hz = _to_hz(edge)
    bins = np.linspace(0, MODEL_RATE_HZ / 2, WINDOW // 2 + 1)
    rise = (bins - hz[:-2, None]) / np.diff(hz)[:-1, None]
    fall = (hz[2:, None] - bins) / np.diff(hz)[1:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (hz[2:] - hz[:-2]))[:, None]
    unit_area: Float32 = filters.astype(np.float32)
    return unit_area


def _to_mel(hz: float) -> float:
    return 15 + np.log(hz / 1000) * 27 / np.log(6.4) if hz >= 1000 else hz * 3 / 200


def _to_hz(mel: np.ndarray) -> np.ndarray:
    hz: np.ndarray = np.where(mel >= 15, 1000 * np.exp((mel - 15) * np.log(6.4) / 27), mel * 200 / 3)
    return hz


@cache
def _hann() -> Float32:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def log_mel(pcm: Float32) -> Float32:
    """pcm: (..., LEFT_SAMPLES + CONTEXT_SAMPLES) float32 at 16 kHz -> (..., MELS, 2 * TOKENS) float32."""
    assert pcm.shape[-1] == LEFT_SAMPLES + CONTEXT_SAMPLES, "log_mel wants exactly one context of sound"
    padding = [(0, 0)] * (pcm.ndim - 1) + [(0, WINDOW - LEFT_SAMPLES - HOP)]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, padding), WINDOW, axis=-1)[..., ::HOP, :]
    power = np.abs(np.fft.rfft(frames * _hann(), axis=-1)).astype(np.float32) ** 2
    level = np.log10(np.maximum(power @ mel_filters().T, 1e-10))
    loudest = np.maximum(level.max((-1, -2), keepdims=True), QUIET)
    out: Float32 = ((np.maximum(level, loudest - 8) + 4) / 4).astype(np.float32)
    return out.swapaxes(-1, -2)
