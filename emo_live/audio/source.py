"""Opens the sound of a file: anything PyAV reads, a video's sound too, decoded step by step in constant memory.

Sample 0 is the container's time 0: an encoder's priming is gone; where sound starts late or pauses there is silence.
Does not resample and does not judge what it hears. Synchronous: use it on a worker thread.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from emo_live.errors import BadInputError
from emo_live.types import Float32

# Matroska rounds times to 1 ms: a late start shorter than this is rounding.
_ROUNDING_S = 0.002
# A hole in the timestamps is filled only above this (transport streams jitter by some milliseconds) ...
_GAP_S = 0.020
# ... and below this: a longer jump, or one backwards, is another clock, not silence.
_CLOCK_JUMP_S = 600.0
_BACKWARDS_S = 1.0
# A stream cut out of a longer one may begin with packets that need their lost predecessors.
_MAX_BROKEN_START_PACKETS = 8
# Formats whose headers promise an exact length, so that a shorter file is known to be cut off.
_EXACT_LENGTH_FORMATS = {"w64", "aiff", "flac", "mov"}
_PCM_TAGS = {0x0001, 0x0003, 0xFFFE}  # WAV: integer, float, extensible; compressed kinds only promise an average rate
_PLAYLIST_FORMATS = {"hls", "dash", "concat", "imf"}
_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0}
# Weight of a speaker in (left, right); the low-frequency channel carries no speech and is left out.
_HALF = 0.5**0.5
_LEFT, _RIGHT, _BOTH = (1.0, 0.0), (0.0, 1.0), (_HALF, _HALF)
_SPEAKERS = {
    "FL": _LEFT,
    "FR": _RIGHT,
    "FC": _BOTH,
    "FLC": _LEFT,
    "FRC": _RIGHT,
    "DL": _LEFT,
    "DR": _RIGHT,
    "BL": (_HALF, 0.0),
    "BR": (0.0, _HALF),
    "SL": (_HALF, 0.0),
    "SR": (0.0, _HALF),
    "BC": (0.5, 0.5),
    "TFL": (_HALF, 0.0),
    "TFR": (0.0, _HALF),
    "TBL": (0.5, 0.0),
    "TBR": (0.0, 0.5),
    "LFE": (0.0, 0.0),
    "LFE2": (0.0, 0.0),
}


def to_mono(pcm: Float32) -> Float32:
    """Average the channels of pcm (S, C) or (S,) float32 into (S,) float32."""
    if pcm.ndim == 1:
        return pcm
    return pcm[:, 0].copy() if pcm.shape[1] == 1 else pcm.mean(axis=1, dtype=np.float32)


class AudioFile:
    """The sound of one file, read once from start to end; a context manager.

    rate_hz: the file's own rate. channels: 1 or 2, more are mixed down to stereo. duration_s: an estimate, None if the
    file does not say. damage: None, or after iteration where and why the sound ended early. Raises BadInputError when
    there is no usable sound.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damage: str | None = None
        self._container = _open_container(self.path)
        try:
            self._stream = self._choose_stream()
            self._origin_s = self._picture_start_s()
            self._duration_in_header_s = _seconds(self._stream.duration, self._stream.time_base)
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise BadInputError(f"{self.path.name} holds no sound, not one sample: give a file with speech in it")
            self.rate_hz = int(first.sample_rate)
            self.channels = 1 if first.layout.nb_channels == 1 else 2
            self.duration_s = self._estimate_duration_s()
            self._chunks = self._fill(first)
            # Errors of the first frame belong to opening, before anybody did heavy work.
            self._first_chunk = next(self._chunks, None)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._chunks.close()
        self._frames.close()
        self._container.close()

    def chunks(self) -> Iterator[Float32]:
        """Yield the sound from sample 0 on: (S, C) float32 in about [-1, 1], S of at most some seconds. Works once.

        Ends early where the file is corrupt; `damage` then says where and why.
        """
        if self._first_chunk is not None:
            first, self._first_chunk = self._first_chunk, None
            yield first
        yield from self._chunks

    def _choose_stream(self) -> av.AudioStream:
        stream = self._container.streams.best("audio")
        if stream is None and (self._container.streams.audio or not self._container.streams):
            raise BadInputError(
                f"the sound of {self.path.name} is corrupt from the start: export it again, best as WAV"
            )
        if not isinstance(stream, av.AudioStream):
            raise BadInputError(f"{self.path.name} has no sound in it: give an audio file, or a video with sound")
        if stream.codec_context is None:
            raise BadInputError(
                f"the sound of {self.path.name} is in a format this build cannot decode: convert it to WAV"
            )
        return stream

    def _picture_start_s(self) -> float | None:
        """When the moving picture starts, in the container's time; None if there is none (cover art does not move)."""
        starts = [
            _seconds(video.start_time, video.time_base) or 0.0
            for video in self._container.streams.video
            if not video.disposition & Disposition.attached_pic
        ]
        return min(starts, default=None)

    def _estimate_duration_s(self) -> float | None:
        if self._duration_in_header_s is None:
            return None if self._container.duration is None else self._container.duration / av.time_base
        if self._origin_s is None:
            return self._duration_in_header_s
        late_s = (_seconds(self._stream.start_time, self._stream.time_base) or 0.0) - self._origin_s
        return self._duration_in_header_s + max(0.0, late_s)

    def _decode(self) -> Generator[Any, None, None]:
        """Yield decoded frames that hold samples; where decoding or reading fails it ends and leaves the reason."""
        n_good = n_broken = 0
        reason = ""
        self._decoded_s = 0.0
        packets = self._container.demux(self._stream)
        while not reason:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                reason = f"it cannot be read further ({_reason(error)})"
                break
            if packet is None:
                break
            try:
                frames = packet.decode()
            except av.EOFError:
                break
            except (av.FFmpegError, ValueError) as error:
                n_broken += 1
                if n_good or n_broken > _MAX_BROKEN_START_PACKETS:
                    reason = f"the data is corrupt ({_reason(error)})"
                continue
            for frame in frames:
                if frame.is_corrupt:
                    reason = "the data is corrupt"
                    break
                if frame.samples:
                    n_good += 1
                    self._decoded_s += frame.samples / frame.sample_rate
                    yield frame
        if not n_good and (reason or n_broken):
            raise BadInputError(
                f"the sound of {self.path.name} is corrupt from the start: export it again, best as WAV"
            )
        self._end_reason = reason or self._cut_off()

    def _cut_off(self) -> str:
        """What to say if there is clearly less sound than the header promises, else nothing."""
        promised_s = self._promised_s()
        if promised_s is not None and self._decoded_s < promised_s - max(0.5, promised_s * 0.01):
            return f"the file is cut off ({promised_s:.1f} s were promised)"
        return ""

    def _promised_s(self) -> float | None:
        """How long the header says the sound is, if such a header is to be trusted; None if not."""
        formats = set(self._container.format.name.split(","))
        if "wav" in formats:
            return _wav_header_s(self.path)
        # Only a LAME tag, which also counts the frames, gives an mp3 a start time; without one its length is guessed.
        if _EXACT_LENGTH_FORMATS & formats or ("mp3" in formats and self._stream.start_time):
            return self._duration_in_header_s
        if "matroska" in formats and self._origin_s is None and self._container.duration is not None:
            return self._container.duration / av.time_base
        return None

    def _fill(self, first: Any) -> Generator[Float32, None, None]:
        """Yield the frames' samples, with silence where the timestamps leave room."""
        self._given = 0
        fault: str | None = None
        clock_zero_s = self._clock_zero_s(first)
        frame: Any = first
        while frame is not None:
            following = next(self._frames, None)
            pcm, fault = self._convert(frame)
            if not len(pcm) and self._given == 0:
                raise BadInputError(
                    f"the sound of {self.path.name} is unusable from the start ({fault}): export it again"
                )
            now_s = _seconds(frame.pts, frame.time_base)
            if now_s is not None:
                gap_s = now_s - clock_zero_s - self._given / self.rate_hz
                if not -_BACKWARDS_S < gap_s < _CLOCK_JUMP_S:
                    clock_zero_s += gap_s
                elif gap_s > (_GAP_S if self._given else _ROUNDING_S):
                    yield from self._silence(round(gap_s * self.rate_hz))
            if following is None:
                pcm = pcm[: len(pcm) - self._end_padding(len(pcm))]
            self._given += len(pcm)
            if len(pcm):
                yield pcm
            frame = None if fault else following
        reason = fault or self._end_reason
        if reason:
            self.damage = f"{self.path.name} is damaged at {self._given / self.rate_hz:.1f} s: {reason}"

    def _clock_zero_s(self, first: Any) -> float:
        """The container's time of our sample 0: the picture's start if the sound comes later, else the sound's."""
        first_s = _seconds(first.pts, first.time_base) or 0.0
        if self._origin_s is None or not 0.0 < first_s - self._origin_s < _CLOCK_JUMP_S:
            return first_s
        return self._origin_s

    def _end_padding(self, n_last: int) -> int:
        """How many of the last frame's samples only fill the encoder's last block: an MP4 tells by its track length."""
        if self.duration_s is None or "mov" not in self._container.format.name:
            return 0
        excess = self._given + n_last - round(self.duration_s * self.rate_hz)
        return excess if 0 < excess < n_last else 0

    def _silence(self, n_samples: int) -> Iterator[Float32]:
        while n_samples > 0:
            block = np.zeros((min(n_samples, self.rate_hz), self.channels), np.float32)
            n_samples -= len(block)
            self._given += len(block)
            yield block

    def _convert(self, frame: Any) -> tuple[Float32, str | None]:
        """A frame's samples (S, C) float32 up to the first unusable one, and what is wrong with that one."""
        if frame.sample_rate != self.rate_hz:
            return np.zeros(
                (0, self.channels), np.float32
            ), f"the rate changes from {self.rate_hz} to {frame.sample_rate} Hz"
        try:
            raw = frame.to_ndarray()
        except ValueError:
            return np.zeros((0, self.channels), np.float32), f"samples of kind {frame.format.name} cannot be read"
        samples = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
        pcm = _to_float(samples, frame.format.name.removesuffix("p"))
        usable = np.isfinite(pcm).all(axis=1)
        if not usable.all():
            return self._mix(pcm[: int(usable.argmin())], frame.layout), "samples are not numbers (NaN or infinite)"
        return self._mix(pcm, frame.layout), None

    def _mix(self, pcm: Float32, layout: av.AudioLayout) -> Float32:
        """(S, any) -> (S, channels); a file may change its layout on the way."""
        if pcm.shape[1] > 2:
            pcm = pcm @ _stereo_matrix([channel.name for channel in layout.channels])
        if pcm.shape[1] == self.channels:
            return np.ascontiguousarray(pcm)
        return np.repeat(pcm, 2, axis=1) if self.channels == 2 else to_mono(pcm)[:, None]


def _open_container(path: Path) -> InputContainer:
    name = path.name or str(path)
    try:
        if path.is_dir():
            raise BadInputError(f"{path} is a folder: give an audio file")
        if not path.exists():
            raise BadInputError(f"there is no file {path}: check the name")
        if not path.is_file():
            raise BadInputError(f"{path} is not an ordinary file: give an audio file")
        if path.stat().st_size == 0:
            raise BadInputError(f"{name} is empty (zero bytes): record or export it again")
        # "file:" and the list keep a name like "http:..." or a disguised playlist from reaching the network.
        container = av.open(
            f"file:{path.absolute()}", "r", options={"protocol_whitelist": "file"}, metadata_errors="replace"
        )
    except PermissionError:
        if os.access(path, os.R_OK):  # it is FFmpeg that may not: the file names others
            raise BadInputError(f"{name} is a playlist, not sound: give the audio file itself") from None
        raise BadInputError(f"{path} may not be read: change its permissions") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise BadInputError(f"{path} cannot be opened ({_reason(error)}): check the name") from error
        raise BadInputError(
            f"{name} is no audio or video file, or corrupt from the start ({_reason(error)}): export it again as WAV"
        ) from error
    if _PLAYLIST_FORMATS.intersection(container.format.name.split(",")):
        container.close()
        raise BadInputError(f"{name} is a playlist, not sound: give the audio file itself")
    return container


def _wav_header_s(path: Path) -> float | None:
    """The length a WAV's header promises (the decoder goes by the file's size instead); None if it is left open."""
    with path.open("rb") as file:
        if file.read(12)[:4] != b"RIFF":
            return None
        bytes_per_s = 0
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                left_open = size in (0, 0xFFFFFFFF, 0x7FFFFFFF) or not bytes_per_s
                return None if left_open else size / bytes_per_s
            start = file.tell()
            if header[:4] == b"fmt ":
                fmt = file.read(12)
                if int.from_bytes(fmt[:2], "little") in _PCM_TAGS:
                    bytes_per_s = int.from_bytes(fmt[8:], "little")
            file.seek(start + size + size % 2)
    return None


def _seconds(count: int | None, time_base: Any) -> float | None:
    return None if count is None or time_base is None else float(count * time_base)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().splitlines()[0].lower()


def _to_float(samples: np.ndarray[Any, Any], kind: str) -> Float32:
    """Any PCM numbers -> float32 in [-1, 1]."""
    if kind not in _FULL_SCALE:
        with np.errstate(over="ignore", invalid="ignore"):
            return samples.astype(np.float32)
    pcm = samples.astype(np.float32)
    if kind == "u8":
        pcm -= 128.0
    pcm /= np.float32(_FULL_SCALE[kind])
    return pcm


def _stereo_matrix(speakers: list[str]) -> Float32:
    """(C, 2) weights that mix named speakers down, scaled so that full-scale input cannot overshoot.

    Channels without a name (a multitrack recorder's) go to both sides alike.
    """
    weights = np.array([_SPEAKERS.get(name, _BOTH) for name in speakers], np.float32)
    if not weights.any():
        weights[:] = _HALF
    return weights / max(1.0, float(weights.sum(axis=0).max()))
