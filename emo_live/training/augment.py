"""Makes clean speech sound like microphones: level, noise, babble, room, pitch, codec. (S,) float32 at 16 kHz.

Timing never changes: every effect keeps sample i where it was, within a millisecond.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import av
import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve

from emo_live.types import MODEL_RATE_HZ, Float32

LOUDNESS_STEP = 16  # samples: 1 ms
LATE_STEPS = 40  # most that an effect is moved back by


def rms(x: Float32) -> float:
    return float(np.sqrt(np.mean(np.square(x)) + 1e-12))


def noise(samples: int, colour: float, random: np.random.Generator) -> Float32:
    """Unit-power noise whose power falls with frequency ** colour: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(random.normal(size=samples))
    hz = np.fft.rfftfreq(samples, 1 / MODEL_RATE_HZ)
    spectrum *= np.maximum(hz, 40.0) ** (-colour / 2)
    wave = np.fft.irfft(spectrum, samples)
    return (wave / (wave.std() + 1e-9)).astype(np.float32)


def room(pcm: Float32, random: np.random.Generator) -> Float32:
    """Direct sound plus an exponentially fading tail (0.15 to 0.6 s to -60 dB)."""
    decay_s = random.uniform(0.15, 0.6)
    t = np.arange(int(decay_s * MODEL_RATE_HZ)) / MODEL_RATE_HZ
    tail = random.normal(size=len(t)) * 10 ** (-3 * t / decay_s)
    tail[: int(random.uniform(0.002, 0.02) * MODEL_RATE_HZ)] = 0
    tail *= random.uniform(0.05, 0.4) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] = 1
    return fftconvolve(pcm, tail)[: len(pcm)].astype(np.float32)


def pitch(pcm: Float32, factor: float) -> Float32:
    """Moves pitch and formants by `factor`; the duration stays (FFmpeg's asetrate, aresample and atempo)."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=MODEL_RATE_HZ, format="flt", layout="mono")
    rate = graph.add("asetrate", str(int(MODEL_RATE_HZ * factor)))
    resample = graph.add("aresample", str(MODEL_RATE_HZ))
    tempo, sink = graph.add("atempo", str(1 / factor)), graph.add("abuffersink")
    for a, b in ((source, rate), (rate, resample), (resample, tempo), (tempo, sink)):
        a.link_to(b)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None]), format="flt", layout="mono")
    frame.sample_rate, frame.pts = MODEL_RATE_HZ, 0
    graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            pulled = sink.pull()
            assert isinstance(pulled, av.AudioFrame)
            parts.append(pulled.to_ndarray().reshape(-1))
        except (EOFError, av.FFmpegError):
            break
    moved = np.concatenate([np.zeros(0, np.float32), *parts])
    return _in_place(moved, pcm)


def _in_place(moved: Float32, original: Float32) -> Float32:
    """`moved` where its loudness agrees best with the original's: atempo is up to 20 ms early or late."""
    late = np.arange(-LATE_STEPS, LATE_STEPS + 1)
    wanted, got = loudness(original), loudness(np.resize(np.pad(moved, (0, len(original))), len(original)))
    agreement = [float(wanted @ np.roll(got, -k)) for k in late]
    shift = int(late[int(np.argmax(agreement))]) * LOUDNESS_STEP
    placed = np.pad(moved[max(0, shift) :], (max(0, -shift), len(original)))
    return placed[: len(original)].astype(np.float32)


def loudness(pcm: Float32) -> Float32:
    """(S,) -> (S // LOUDNESS_STEP,) root of the power in a window of 10 ms, without its mean."""
    power = uniform_filter1d(np.square(pcm, dtype=np.float64), 160)[::LOUDNESS_STEP][: len(pcm) // LOUDNESS_STEP]
    level = np.sqrt(np.maximum(power, 0))  # a running sum may end a little below zero
    return np.asarray(level - level.mean(), np.float32)


def codec(pcm: Float32, bit_rate: int) -> Float32:
    """Through Opus and back."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=MODEL_RATE_HZ, layout="mono", bit_rate=bit_rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None]), format="flt", layout="mono")
        frame.sample_rate, frame.pts = MODEL_RATE_HZ, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    buffer.seek(0)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=MODEL_RATE_HZ)
    with av.open(buffer, "r") as read:
        parts = [p.to_ndarray().reshape(-1) for f in read.decode(audio=0) for p in resampler.resample(f)]
    out_pcm = np.zeros(len(pcm), np.float32)
    joined = np.concatenate(parts)[: len(pcm)]
    out_pcm[: len(joined)] = joined
    return out_pcm


def augment(pcm: Float32, others: Sequence[Float32], random: np.random.Generator) -> Float32:
    """A random mixture of the effects above; others: clips of other speech, of which one or more are heard behind."""
    x = pcm.copy()
    if random.random() < 0.5:
        x = pitch(x, float(random.uniform(0.84, 1.2)))
    if random.random() < 0.35:
        x = room(x, random)
    level = rms(x)
    if random.random() < 0.6:
        x += noise(len(x), random.uniform(0, 2), random) * level * 10 ** (-random.uniform(5, 35) / 20)
    if random.random() < 0.45:
        speakers = others[: int(random.integers(1, len(others) + 1))]
        babble = np.sum([np.resize(np.roll(o, int(random.integers(len(o)))), len(x)) / rms(o) for o in speakers], 0)
        x += (babble / rms(babble) * level * 10 ** (-random.uniform(6, 25) / 20)).astype(np.float32)
    if random.random() < 0.2:
        x = codec(x, int(random.choice([8_000, 12_000, 20_000])))
    peak = float(np.abs(x).max()) + 1e-6
    gain = min(10 ** (random.uniform(-22, 6) / 20), 0.99 / peak)
    return (x * gain).astype(np.float32)
