"""What it costs to send a picture: our encoders against aiortc's own, on the same pictures, in turns, in one run.

Turns are short and the least of them counts, because whatever else runs on the machine only ever adds to it. CPU time
is the process's, all threads of an encoder included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import av
import numpy as np
from PIL import Image

from emo_live import samples
from emo_live.hardware import describe
from emo_live.transport import rtc_internals
from emo_live.transport.rtc_codecs import VIDEO_TIME_BASE, CodecName, PairEncoder
from emo_live.types import FPS, OUTPUT_STEP_SAMPLES, Progress, ProgressCallback, UInt8

BITRATES_BPS = (1_000_000, 800_000)  # the network changes its mind every second
_SILENCE = np.zeros(OUTPUT_STEP_SAMPLES, np.int16)

Encode = Callable[[UInt8, int, int], tuple[list[bytes], bool]]  # picture, position, bitrate -> payloads, keyframe


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """cpu_ms: conversion, encoding and cutting into packets, a picture; ours includes 40 ms of Opus."""

    encoder: str
    cpu_ms: float
    wall_ms: float
    kbps: float
    keyframes: int
    largest_packets: int


@dataclass(frozen=True, slots=True)
class RtcBenchReport:
    """keyframes: in all turns; the bitrate changes with each. largest_packets: of one picture, sent at once."""

    machine: dict[str, Any]
    size: int
    pictures: int
    encoders: tuple[EncoderRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(*, seconds: float, size: int = 512, progress: ProgressCallback | None = None) -> RtcBenchReport:
    """seconds: of video for each encoder."""
    pictures, turns = _talking(size), max(2, round(seconds))
    runs = [
        _Run("emo_live H.264", _ours("h264", size)),
        _Run("emo_live VP8", _ours("vp8", size)),
        _Run("aiortc H.264", _aiortc("h264")),
        _Run("aiortc VP8", _aiortc("vp8")),
    ]
    for turn in range(turns):
        for run in runs:
            run.turn(pictures, turn)
        if progress is not None:
            progress(Progress("render", turn + 1, turns))
    return RtcBenchReport(describe(), size, turns * FPS, tuple(run.row() for run in runs))


class _Run:
    """One encoder and what its turns have cost."""

    def __init__(self, name: str, encode: Encode) -> None:
        self._name, self._encode = name, encode
        self._cpu_s, self._wall_s = list[float](), list[float]()
        self._bytes = self._keyframes = self._largest = self._position = 0

    def turn(self, pictures: list[UInt8], turn: int) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(FPS):
            picture = pictures[self._position % len(pictures)]
            payloads, keyframe = self._encode(picture, self._position, BITRATES_BPS[turn % len(BITRATES_BPS)])
            self._position += 1
            self._bytes += sum(map(len, payloads))
            self._keyframes += keyframe
            self._largest = max(self._largest, len(payloads))
        self._cpu_s.append(time.process_time() - cpu)
        self._wall_s.append(time.perf_counter() - wall)

    def row(self) -> EncoderRow:
        return EncoderRow(
            self._name,
            round(min(self._cpu_s) * 1000 / FPS, 2),
            round(min(self._wall_s) * 1000 / FPS, 2),
            round(self._bytes * 8 / (self._position / FPS) / 1000, 1),
            self._keyframes,
            self._largest,
        )


def _ours(codec: CodecName, size: int) -> Encode:
    encoder = PairEncoder(codec, (size, size), BITRATES_BPS[0], max(BITRATES_BPS))
    pack = rtc_internals.own_encoder(codec).pack

    def encode(picture: UInt8, position: int, bitrate_bps: int) -> tuple[list[bytes], bool]:
        encoder.video.follow(bitrate_bps)
        encoded = encoder.encode(picture, _SILENCE, position)
        return pack(encoded.video)[0], encoded.keyframe

    return encode


def _aiortc(codec: CodecName) -> Encode:
    """As a track that gives frames makes aiortc work."""
    encoder = rtc_internals.own_encoder(codec)

    def encode(picture: UInt8, position: int, bitrate_bps: int) -> tuple[list[bytes], bool]:
        encoder.target_bitrate = bitrate_bps
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = position * VIDEO_TIME_BASE.denominator // FPS, VIDEO_TIME_BASE
        payloads, _ = encoder.encode(frame)
        return payloads, _is_keyframe(codec, payloads)

    return encode


def _is_keyframe(codec: CodecName, payloads: list[bytes]) -> bool:
    """H.264 sends parameter sets before an IDR, alone or aggregated (RFC 6184, 5.6 and 5.7.1); VP8 clears a bit of the
    first byte after its descriptor of four (RFC 6386, section 9.1; RFC 7741, 4.2)."""
    if codec == "vp8":
        return not payloads[0][4] & 1
    kinds = {payload[0] & 0x1F for payload in payloads} | {
        payload[3] & 0x1F for payload in payloads if payload[0] & 0x1F == 24
    }
    return bool(kinds & {5, 7})


def _talking(size: int) -> list[UInt8]:
    """Two seconds of the bundled portrait, moving about as much as a speaker does: head sways, mouth opens."""
    with Image.open(samples.portrait()) as opened:
        face = opened.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    pictures = []
    for step in range(2 * FPS):
        phase = 2 * np.pi * step / (2 * FPS)
        sway_x, sway_y = size / 128 * np.sin(phase), size / 256 * np.sin(2 * phase)
        moved = face.transform(
            (size, size), Image.Transform.AFFINE, (1, 0, sway_x, 0, 1, sway_y), Image.Resampling.BICUBIC
        )
        opening = round(size / 32 * abs(np.sin(5 * phase)))
        mouth = (size * 3 // 8, size * 5 // 8, size * 5 // 8, size * 3 // 4)
        stretched = moved.crop(mouth).resize((mouth[2] - mouth[0], mouth[3] - mouth[1] + opening))
        moved.paste(stretched, mouth[:2])
        pictures.append(np.asarray(moved))
    return pictures
