"""Reads the pictures and the sound of a video file, both counted from its first picture. Knows nothing of faces.

Any container that PyAV reads, any size, rotation and rate. Synchronous, one picture in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from emo_live.audio.framer import Framer
from emo_live.audio.source import AudioFile, to_mono
from emo_live.errors import BadInputError
from emo_live.types import FPS, Float32, UInt8

SUFFIXES = frozenset(
    ".3gp .asf .avi .divx .f4v .flv .m2ts .m2v .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .ogm .ogv .ts .vob "
    ".webm .wmv .y4m".split()
)
MIN_RATE_HZ = 20.0  # with fewer pictures a second, lips are missed
MAX_SIDE_PX = 1920


def video_files(folder: Path) -> list[Path]:
    """All video files below a folder, by their names' endings, in a fixed order."""
    if not folder.is_dir():
        raise BadInputError(f"{folder} is no folder: give one with video files in it")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise BadInputError(f"{folder} holds no video files (.mp4, .mov, .mkv, .webm, ...)")
    return found


class Footage:
    """One video file. rate_hz: pictures a second as given here. Raises BadInputError where it cannot be used at all."""

    def __init__(self, path: Path):
        self.path = path
        with self._open() as container:
            stream = self._stream(container)
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
        if rate < MIN_RATE_HZ:
            raise BadInputError(f"{path.name} has {rate:.4g} pictures a second: {MIN_RATE_HZ:.0f} are the least")
        self._every = max(1, int(rate / FPS + 0.01))  # twice as many pictures as wanted say nothing more
        self.rate_hz = rate / self._every

    def _open(self) -> av.container.InputContainer:
        try:
            # "file:" and the list keep a disguised playlist from reaching the network.
            return av.open(f"file:{os.path.abspath(self.path)}", options={"protocol_whitelist": "file"})
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadInputError(f"{self.path.name} is no video, or corrupt from the start") from error

    def _stream(self, container: av.container.InputContainer) -> av.VideoStream:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
                stream.thread_type = "AUTO"
                return stream
        raise BadInputError(f"{self.path.name} has no moving picture that this build can decode")

    def _frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """All frames with their times in the container, in s; ends where the file is damaged."""
        with self._open() as container:
            stream = self._stream(container)
            try:
                for frame in container.decode(stream):
                    if frame.time is not None:
                        yield float(frame.time), frame
            except av.FFmpegError:
                return

    def pictures(self) -> Iterator[tuple[float, UInt8]]:
        """Seconds since the first picture, and (H, W, 3) uint8 RGB, upright, of square pixels, at most 1920 px long."""
        first_s: float | None = None
        for i, (time_s, frame) in enumerate(self._frames()):
            first_s = time_s if first_s is None else first_s
            if i % self._every == 0:
                yield time_s - first_s, _upright(frame, self._pixel_aspect)

    def sound(self) -> Float32:
        """(S,) float32, 16 kHz, mono, from the first picture on."""
        with AudioFile(self.path) as file:
            chunks = [to_mono(chunk) for chunk in file.chunks()]
            pcm, rate_hz = np.concatenate(chunks), file.rate_hz
        start = max(0, round(self._first_picture_s() * rate_hz))
        framer = Framer(rate_hz)
        steps = framer.push(pcm[start:]) + framer.flush()
        return np.concatenate([step.model for step in steps]) if steps else np.zeros(0, np.float32)

    def _first_picture_s(self) -> float:
        """The first picture's time in the sound, whose sample 0 is the earlier of the two beginnings."""
        picture_s = next((time_s for time_s, _ in self._frames()), 0.0)
        with self._open() as container:
            sound_s = next((frame.time for frame in container.decode(audio=0) if frame.time is not None), picture_s)
        return max(0.0, picture_s - sound_s)


def _upright(frame: av.VideoFrame, pixel_aspect: float) -> UInt8:
    width, height = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, MAX_SIDE_PX / max(width, height))
    size = (round(width * scale), round(height * scale))
    moved = frame if size == (frame.width, frame.height) else frame.reformat(*size, interpolation="BICUBIC")
    return np.ascontiguousarray(np.rot90(moved.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
