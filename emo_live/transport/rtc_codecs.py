"""Turns pairs into H.264 or VP8 and Opus packets: one encoder a connection, used by one thread at a time.

Colours become BT.601, which every browser assumes where it is not told. The bitrate of H.264 follows the network
without a new keyframe; libvpx ignores a new bitrate, so VP8 is opened again, seldom. A keyframe comes first and
whenever one is asked for, never by itself. Knows nothing of networks and of aiortc.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal, Protocol

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from emo_live.errors import NotSupportedError
from emo_live.types import FPS, OUTPUT_RATE_HZ, OUTPUT_STEP_SAMPLES, Int16, UInt8

CodecName = Literal["h264", "vp8"]

AUDIO_PACKET_SAMPLES = 960  # 20 ms, what every receiver expects of Opus; a pair has two
PACKET_S = AUDIO_PACKET_SAMPLES / OUTPUT_RATE_HZ
VIDEO_CLOCK_HZ = 90_000  # RFC 6184 and RFC 7741
VIDEO_STEP = VIDEO_CLOCK_HZ // FPS
VIDEO_TIME_BASE = Fraction(1, VIDEO_CLOCK_HZ)
AUDIO_TIME_BASE = Fraction(1, OUTPUT_RATE_HZ)
MAX_PIXELS = 1280 * 720  # of H.264 level 3.1, the highest that a browser's offer promises to take
INSTALL_AV = 'pip install --force-reinstall --only-binary :all: "av"'

_STEP_TIME_BASE = Fraction(1, FPS)
_AUDIO_BPS = 40_000  # of mono speech; at this rate Opus still repeats itself for lost packets (RFC 6716, 2.1.7)
_NO_KEYFRAMES = 1 << 30
# Finer than this nobody sees (39 dB or more of a portrait at 512 px), but a constant bitrate would be used up all the
# same: a third of the bits do, and a quarter of the time is saved.
_H264_QMIN, _VP8_QMIN = 20, 12
_BT601 = 6  # H.273 number of SMPTE 170M, the BT.601 matrix of 525 lines


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Packets of one pair with their media time set. audio: of the gap before the pair, then two of its own."""

    video: av.Packet[Any]
    audio: tuple[av.Packet[Any], ...]
    keyframe: bool
    wall_s: float


class VideoEncoder(Protocol):
    """encode: (H, W, 3) uint8 RGB of any size -> one packet; it is scaled to the size that was opened."""

    name: str

    def encode(self, picture: UInt8, position: int, keyframe: bool) -> av.Packet[Any]: ...

    def follow(self, bitrate_bps: int) -> None:
        """What the network carries now."""


class PairEncoder:
    """size: (H, W) on the wire, whatever the pictures have. Positions count 40 ms steps from 0, growing."""

    def __init__(
        self, codec: CodecName, size: tuple[int, int], start_bps: int, max_bps: int, *, hardware: bool = True
    ) -> None:
        height, width = (side - side % 2 for side in size)  # a colour sample covers two by two pixels
        if height * width > MAX_PIXELS or min(height, width) < 16:
            raise NotSupportedError(f"a live picture has 16 px a side to 1280x720 in all, not {size[1]}x{size[0]}")
        self.video = _open_video(codec, (height, width), start_bps, max_bps, hardware)
        self.audio = OpusEncoder()

    def encode(
        self, picture: UInt8, sound: Int16, position: int, *, gap: int = 0, keyframe: bool = False
    ) -> EncodedPair:
        """sound: (1920,) int16 at 48 kHz. gap: steps before this one that nobody gives, heard as silence."""
        started = time.perf_counter()
        video = self.video.encode(picture, position, keyframe)
        video.pts, video.time_base = position * VIDEO_STEP, VIDEO_TIME_BASE
        heard = np.concatenate([np.zeros(gap * OUTPUT_STEP_SAMPLES, np.int16), sound])
        audio = self.audio.encode(heard, (position - gap) * OUTPUT_STEP_SAMPLES)
        return EncodedPair(video, audio, bool(video.is_keyframe), time.perf_counter() - started)


def _open_video(codec: CodecName, size: tuple[int, int], start_bps: int, max_bps: int, hardware: bool) -> VideoEncoder:
    if codec == "vp8":
        return Vp8Encoder(size, start_bps, max_bps)
    if hardware and has_nvenc():
        with contextlib.suppress(av.error.FFmpegError):  # consumer cards open a handful of encoders, no more
            return H264Encoder(size, start_bps, max_bps, "h264_nvenc")
    return H264Encoder(size, start_bps, max_bps)


class H264Encoder:
    """x264, or a hardware encoder with the same options where they mean the same."""

    def __init__(self, size: tuple[int, int], start_bps: int, max_bps: int, name: str = "libx264") -> None:
        self.name = name
        self._pictures = _Pictures(size)
        # x264 changes the bitrate of an open stream only if that began as a constant one, and never above where it
        # began: open at the ceiling, then go down to the start before the first picture.
        self._context = _context(name, size, max_bps)
        self._context.gop_size, self._context.qmin = _NO_KEYFRAMES, _H264_QMIN
        self._context.options = {**_H264_OPTIONS[name], "maxrate": str(max_bps), "bufsize": str(max_bps // 4)}
        self._context.profile = "Baseline" if name == "libx264" else "baseline"
        self._context.open()
        self.follow(start_bps)

    def encode(self, picture: UInt8, position: int, keyframe: bool) -> av.Packet[Any]:
        return _one(self._context.encode(self._pictures.convert(picture, position, keyframe)))

    def follow(self, bitrate_bps: int) -> None:
        self._context.bit_rate = bitrate_bps


class Vp8Encoder:
    """libvpx in real time. A new bitrate costs a keyframe, so small changes are let pass, and quick ones."""

    name = "libvpx"

    def __init__(self, size: tuple[int, int], start_bps: int, max_bps: int) -> None:
        self._size, self._bps, self._open_bps = size, start_bps, start_bps
        self._pictures = _Pictures(size)
        self._context = self._open(start_bps)
        self._opened_at: int | None = None

    def encode(self, picture: UInt8, position: int, keyframe: bool) -> av.Packet[Any]:
        if self._opened_at is None:
            self._opened_at = position
        changed = abs(self._bps - self._open_bps) > 0.25 * self._open_bps
        if changed and position - self._opened_at >= 4 * FPS:
            self._context, self._open_bps, self._opened_at = self._open(self._bps), self._bps, position
        return _one(self._context.encode(self._pictures.convert(picture, position, keyframe)))

    def follow(self, bitrate_bps: int) -> None:
        self._bps = bitrate_bps

    def _open(self, bps: int) -> VideoCodecContext:
        context = _context("libvpx", self._size, bps)
        context.gop_size = _NO_KEYFRAMES
        context.qmin, context.qmax = _VP8_QMIN, 56
        context.options = {**_VP8_OPTIONS, "minrate": str(bps), "maxrate": str(bps), "bufsize": str(bps)}
        context.open()
        return context


class OpusEncoder:
    """Mono at 48 kHz, 20 ms a packet; a lost packet is repeated in the next one at a lower quality."""

    def __init__(self) -> None:
        context = av.CodecContext.create("libopus", "w")
        context.sample_rate, context.layout, context.format = OUTPUT_RATE_HZ, "mono", "s16"
        context.time_base, context.bit_rate = AUDIO_TIME_BASE, _AUDIO_BPS
        context.options = {"application": "voip", "frame_duration": "20", "fec": "1", "packet_loss": "5"}
        context.open()
        self._context = context

    def encode(self, pcm: Int16, start: int) -> tuple[av.Packet[Any], ...]:
        """pcm: (S,) int16, a multiple of 960 samples. start: media time of the first, in samples."""
        assert len(pcm) % AUDIO_PACKET_SAMPLES == 0, "sound comes in multiples of 20 ms"
        packets = []
        for offset in range(0, len(pcm), AUDIO_PACKET_SAMPLES):
            samples = np.ascontiguousarray(pcm[None, offset : offset + AUDIO_PACKET_SAMPLES])
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = OUTPUT_RATE_HZ, AUDIO_TIME_BASE, start + offset
            packet = _one(self._context.encode(frame))
            packet.pts, packet.time_base = start + offset, AUDIO_TIME_BASE
            packets.append(packet)
        return tuple(packets)


class _Pictures:
    """Colour conversion and scaling in one pass of swscale."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._height, self._width = size
        self._scaler = VideoReformatter()

    def convert(self, picture: UInt8, position: int, keyframe: bool) -> av.VideoFrame:
        frame = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="rgb24")
        converted = self._scaler.reformat(
            frame,
            self._width,
            self._height,
            "yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        converted.pts, converted.time_base = position, _STEP_TIME_BASE
        converted.color_primaries, converted.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
        converted.pict_type = PictureType.I if keyframe else PictureType.NONE
        return converted


_H264_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {
        "preset": "superfast",  # against veryfast half the time, for 0.3 dB at equal bits
        "tune": "zerolatency",
        "sc_threshold": "0",
        "threads": "1",
        "forced-idr": "1",
    },
    "h264_nvenc": {
        "preset": "p3",
        "tune": "ull",
        "rc": "cbr",
        "zerolatency": "1",
        "delay": "0",
        "bf": "0",
        "no-scenecut": "1",
        "forced-idr": "1",
    },
}
_VP8_OPTIONS = {
    "deadline": "realtime",
    "cpu-used": "-8",
    "lag-in-frames": "0",
    "overshoot-pct": "15",
    "undershoot-pct": "100",
    "static-thresh": "1",
    "threads": "1",
}


def _context(name: str, size: tuple[int, int], bps: int) -> VideoCodecContext:
    try:
        context = av.CodecContext.create(name, "w")
    except ValueError as error:  # UnknownCodecError is one
        raise NotSupportedError(f"this build of PyAV has no {name}: {INSTALL_AV}") from error
    assert isinstance(context, VideoCodecContext), "video encoders have video contexts"
    context.height, context.width = size
    context.pix_fmt, context.bit_rate = "yuv420p", bps
    context.time_base, context.framerate = _STEP_TIME_BASE, Fraction(FPS)
    context.colorspace, context.color_range = _BT601, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
    return context


def _one(packets: Sequence[av.Packet[Any]]) -> av.Packet[Any]:
    assert len(packets) == 1, "a live encoder gives one packet for what it is given, without delay"
    return packets[0]


@cache
def has_nvenc() -> bool:
    """A name in the build says nothing about the card: only a picture that comes out does."""
    try:
        H264Encoder((256, 256), 500_000, 1_000_000, "h264_nvenc").encode(np.zeros((256, 256, 3), np.uint8), 0, True)
    except (av.error.FFmpegError, NotSupportedError, AssertionError):
        return False
    return True


@cache
def working_codecs() -> frozenset[CodecName]:
    """Those whose encoder opens: builds of FFmpeg without x264 are about."""
    found = set[CodecName]()
    for codec, opened in (("h264", H264Encoder), ("vp8", Vp8Encoder)):
        try:
            opened((64, 64), 500_000, 1_000_000)
        except (av.error.FFmpegError, NotSupportedError):
            continue
        found.add("vp8" if codec == "vp8" else "h264")
    return frozenset(found)
