"""Writes pictures and sound into a video file: MP4 (H.264 + AAC) or WebM (VP9 + Opus) by the file's name.

The sound is aligned with the input to the sample: encoders' priming is trimmed by an edit list (MP4) or by the codec
delay (WebM). The file appears under its name only when complete; until then it is a hidden neighbour. Memory stays flat
except for the index an MP4 needs at its end (18 MB an hour). Synchronous: use it on a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import soxr
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

from emo_live.errors import BadInputError, NotSupportedError
from emo_live.types import FPS, Float32, UInt8

_THREADS = 2
_BT709 = 1  # H.273 number of the BT.709 matrix; swscale and the codecs use the same one
_FULL_DISK_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
# Opus takes lower rates too, but then the muxer writes a wrong codec delay (32 ms late at 8 kHz).
_OPUS_RATES_HZ = (48_000,)


@dataclass(frozen=True, slots=True)
class _Format:
    """How one kind of file is made. audio_rates_hz: what the audio codec takes; other sound is resampled."""

    container: str
    container_options: dict[str, str]
    video_codec: str
    video_options: dict[str, str]
    audio_codec: str
    audio_sample_format: str
    audio_rates_hz: tuple[int, ...]
    audio_options: dict[str, str] = field(default_factory=dict)

    def audio_rate_hz(self, rate_hz: int) -> int:
        """The rate the sound is stored at: its own if possible, else the next higher one, at most 48 kHz."""
        if rate_hz in self.audio_rates_hz:
            return rate_hz
        return min((rate for rate in self.audio_rates_hz if rate > rate_hz), default=48_000)


_FORMATS = {
    ".mp4": _Format(
        container="mp4",
        container_options={"movflags": "+faststart"},
        video_codec="libx264",
        # The parameters halve the time of "veryfast" for a file that is a seventh larger and looks the same.
        video_options={
            "crf": "18",
            "preset": "veryfast",
            "x264-params": "b-adapt=0:subme=1:partitions=none",
            "profile": "high",
            "g": str(10 * FPS),
        },
        audio_codec="aac",
        audio_sample_format="fltp",
        audio_rates_hz=_AAC_RATES_HZ,
    ),
    ".webm": _Format(
        container="webm",
        container_options={},
        video_codec="libvpx-vp9",
        # b 0 with crf is constant quality; lag 0 is what "realtime" is tuned for.
        video_options={
            "crf": "24",
            "b": "0",
            "deadline": "realtime",
            "cpu-used": "8",
            "row-mt": "1",
            "tile-columns": "1",
            "lag-in-frames": "0",
            "g": str(10 * FPS),
        },
        audio_codec="libopus",
        audio_sample_format="flt",
        audio_rates_hz=_OPUS_RATES_HZ,
        # The plain transform coder for all sound: "voip" would filter it.
        audio_options={"application": "audio", "frame_duration": "20"},
    ),
}


class VideoFileWriter:
    """One video file being written, 25 pictures a second; a context manager that aborts when an exception passes.

    width, height: of the pictures given, 16 to 8192; an odd one is made even by repeating the last column or row,
    because 4:2:0 colour needs pairs. rate_hz, channels (1 or 2): of the sound given. metadata: container tags, e.g.
    {"comment": "synthetic media"}. threads: of the picture encoder. Raises BadInputError at once when the file cannot
    be written there. Give sound and pictures by turns, not one before the other: the file is interleaved as it comes,
    only some seconds are held back.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        rate_hz: int,
        channels: int,
        overwrite: bool = False,
        metadata: Mapping[str, str] | None = None,
        threads: int = _THREADS,
    ) -> None:
        self.path = Path(path)
        self.width, self.height, self.rate_hz, self.channels = width, height, rate_hz, channels
        self._format = _choose_format(self.path)
        if not (16 <= width <= 8192 and 16 <= height <= 8192):
            raise BadInputError(f"a video of {width} x {height} px cannot be written: give 16 to 8192 px a side")
        if channels not in (1, 2) or not 1_000 <= rate_hz <= 768_000:
            raise BadInputError(
                f"sound with {channels} channels at {rate_hz} Hz cannot be written: give 1 or 2 channels"
            )
        self._overwrite, self._threads = overwrite, threads
        # A link keeps pointing where it points: its target is what gets replaced.
        self._target = Path(os.path.realpath(self.path))
        self._temporary = _reserve(self.path, self._target, overwrite)
        self._n_frames = self._n_samples = 0
        self._open = True
        try:
            self._set_up(dict(metadata or {}))
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> VideoFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write_video(self, rgb: UInt8) -> None:
        """Append one picture, rgb (H, W, 3) uint8 sRGB. Raises BadInputError: wrong shape, disk full."""
        if rgb.shape != (self.height, self.width, 3) or rgb.dtype != np.uint8:
            raise BadInputError(f"give pictures of ({self.height}, {self.width}, 3) uint8, not {rgb.shape} {rgb.dtype}")
        self._check_open()
        if self.width % 2 or self.height % 2:
            rgb = np.pad(rgb, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=_BT709,
            dst_color_range=ColorRange.MPEG,
            interpolation="AREA",
        )
        picture.color_primaries, picture.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        picture.pts, picture.time_base = self._n_frames, Fraction(1, FPS)
        self._n_frames += 1
        with self._errors():
            self._container.mux(self._video.encode(picture))

    def write_audio(self, pcm: Float32) -> None:
        """Append sound, pcm (S, C) float32, clipped to [-1, 1]; any S. Raises BadInputError: wrong shape, disk full."""
        if pcm.ndim != 2 or pcm.shape[1] != self.channels:
            raise BadInputError(f"give sound of (S, {self.channels}) float32, not {pcm.shape}")
        self._check_open()
        # Encoders refuse what lies far outside, as float files may hold it.
        pcm = np.clip(np.ascontiguousarray(pcm, dtype=np.float32), -1.0, 1.0)
        self._encode_audio(pcm if self._resampler is None else self._resampler.resample_chunk(pcm))

    def close(self) -> None:
        """Finish the file and give it its name; may be called twice.

        Raises BadInputError (disk full, name taken meanwhile); then nothing is left behind.
        """
        if not self._open:
            return
        try:
            with self._errors():
                if self._resampler is not None:
                    self._encode_audio(
                        self._resampler.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)
                    )
                self._container.mux(self._video.encode(None))
                self._container.mux(self._audio.encode(None))
                self._container.close()
            self._publish()
        except BaseException:
            self.abort()
            raise
        self._open = False

    def abort(self) -> None:
        """Give up: remove the temporary file, leave `path` as it was. May be called twice, and after `close`."""
        if not self._open:
            return
        self._open = False
        # Removed first, so that closing does not spend minutes on moving the index of a file nobody will have.
        with contextlib.suppress(OSError):
            self._temporary.unlink()
        if hasattr(self, "_container"):
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                self._container.close()
        self._temporary.unlink(missing_ok=True)

    def _set_up(self, metadata: dict[str, str]) -> None:
        form = self._format
        for codec in (form.video_codec, form.audio_codec):
            if codec not in av.codecs_available:
                raise NotSupportedError(f"this build of PyAV has no {codec}: pip install --force-reinstall av")
        with self._errors():
            self._container = av.open(
                f"file:{self._temporary}", "w", format=form.container, options=dict(form.container_options)
            )
        self._container.metadata.update(metadata)
        self._video = self._add_video()
        stored_hz = form.audio_rate_hz(self.rate_hz)
        self._resampler = None
        if stored_hz != self.rate_hz:
            self._resampler = soxr.ResampleStream(self.rate_hz, stored_hz, self.channels, dtype="float32", quality="HQ")
        self._audio = self._add_audio(stored_hz)
        with self._errors():
            self._container.start_encoding()

    def _add_video(self) -> av.VideoStream:
        form = self._format
        stream = self._container.add_stream(form.video_codec, rate=FPS, options=dict(form.video_options))
        assert isinstance(stream, av.VideoStream), "a video codec makes a video stream"
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, FPS)
        context.thread_count = self._threads
        context.colorspace, context.color_range = _BT709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return stream

    def _add_audio(self, rate_hz: int) -> av.AudioStream:
        form = self._format
        stream = self._container.add_stream(form.audio_codec, rate=rate_hz, options=dict(form.audio_options))
        assert isinstance(stream, av.AudioStream), "an audio codec makes an audio stream"
        stream.layout = "mono" if self.channels == 1 else "stereo"
        stream.format = form.audio_sample_format
        # 4 bits a sample are past what speech needs, and what AAC can hold at low rates.
        stream.bit_rate = min(128_000, 4 * rate_hz) * self.channels
        return stream

    def _encode_audio(self, pcm: Float32) -> None:
        if not len(pcm):
            return
        planar = self._format.audio_sample_format.endswith("p")
        samples = np.ascontiguousarray(pcm.T) if planar else pcm.reshape(1, -1)
        sound = av.AudioFrame.from_ndarray(
            samples, format=self._format.audio_sample_format, layout=self._audio.layout.name
        )
        sound.sample_rate = self._audio.sample_rate
        # Without times counted from 0 the muxer does not learn of the encoder's priming and the sound comes late.
        sound.pts, sound.time_base = self._n_samples, Fraction(1, self._audio.sample_rate)
        self._n_samples += len(pcm)
        with self._errors():
            self._container.mux(self._audio.encode(sound))

    def _check_open(self) -> None:
        if not self._open:
            raise BadInputError(f"{self.path.name} is closed already: open another writer")

    def _publish(self) -> None:
        """Give the finished file its name, in one step."""
        try:
            if not self._overwrite and os.path.lexists(self._target):
                raise BadInputError(
                    f"{self.path} appeared while the video was made: choose another name or allow overwriting"
                )
            os.replace(self._temporary, self._target)
        except OSError as error:
            raise BadInputError(f"{self.path} cannot be written ({_reason(error)}): choose another folder") from error

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the system says while writing into one line, and remove the file."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self.abort()
            if error.errno in _FULL_DISK_ERRNOS:
                raise BadInputError(
                    f"disk full while writing {self.path}: free some space or choose another folder"
                ) from error
            raise BadInputError(f"{self.path} cannot be written ({_reason(error)}): choose another folder") from error


def _choose_format(path: Path) -> _Format:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise BadInputError(f"{path.name or path} is neither .mp4 nor .webm: end the name in one of the two")
    return form


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise BadInputError where VideoFileWriter would at once, for those who have a long way to go until then."""
    path = Path(path)
    _choose_format(path)
    target = Path(os.path.realpath(path))
    with _refusals(path, target):
        _check_target(path, target, overwrite)


def _check_target(path: Path, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise BadInputError(f"{path} is a folder: give the name of a file in it")
    if target.exists():
        if not target.is_file():
            raise BadInputError(f"{path} is not an ordinary file: choose another name")
        if not overwrite:
            raise BadInputError(f"{path} exists already: choose another name or allow overwriting (--overwrite)")
    if not target.parent.is_dir():
        raise BadInputError(f"there is no folder {target.parent}: create it or choose another one")
    if not os.access(target.parent, os.W_OK):
        raise BadInputError(f"{path} cannot be written (permission denied): choose another folder")


def _reserve(path: Path, target: Path, overwrite: bool) -> Path:
    """Check that `target` may be written, and create the hidden temporary file beside it."""
    with _refusals(path, target):
        _check_target(path, target, overwrite)
        temporary = target.parent / f".emo-live-{secrets.token_hex(6)}{target.suffix}.part"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


@contextlib.contextmanager
def _refusals(path: Path, target: Path) -> Iterator[None]:
    """Turn what the system says before anything is written into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK_ERRNOS:
            raise BadInputError(f"disk full: {target.parent} has no room for {path.name}, free some space") from error
        raise BadInputError(f"{path} cannot be written ({_reason(error)}): choose another folder") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().splitlines()[0].lower()
