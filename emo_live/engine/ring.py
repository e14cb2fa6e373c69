"""Memory that a session shares with the engine process: a ring of steps in, a ring of frames out, and a few words.

Anonymous memory behind a file descriptor: it has no name, so it is gone with the last process that maps it, however
that ends. Each ring has one writer and one reader; head and tail count up forever and each is written by one side only.
A slot is filled before the head moves, and emptied before the tail does. Nothing here blocks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_live.engine.live import LiveSettings, Timing
from emo_live.engine.window import Controls
from emo_live.types import MODEL_STEP_SAMPLES, OUTPUT_STEP_SAMPLES, Float32, Int16, UInt8

N_STEPS = 32
BEAT_BYTES = 8
_STEP = np.dtype([("epoch", "<i8"), ("index", "<i8"), ("pcm", "<f4", MODEL_STEP_SAMPLES)])
_WORDS = np.dtype(
    [
        *((name, "<i8") for name in ("epoch", "rewind_to", "shown", "adjusted")),
        *((name, "<f8") for name in ("speed", "motion")),
        *((name, "<i8") for name in ("steps", "small", "sparse", "patient")),
        *((name, "<i8") for name in ("in_head", "in_tail", "out_head", "out_tail")),
    ]
)


def _frame_type(shape: tuple[int, int]) -> np.dtype[Any]:
    return np.dtype(
        [
            *((name, "<i8") for name in ("epoch", "index", "has_sound")),
            ("work_ms", "<f8"),
            ("heard", "<i2", OUTPUT_STEP_SAMPLES),
            ("video", "u1", (*shape, 3)),
        ]
    )


class Ring:
    """items: (n,) structured; head, tail: names of the words that count what was put and taken."""

    def __init__(self, items: NDArray[Any], words: NDArray[Any], head: str, tail: str) -> None:
        self._items, self._words, self._head, self._tail = items, words, head, tail

    def __len__(self) -> int:
        return int(self._words[self._head] - self._words[self._tail])

    @property
    def size(self) -> int:
        return len(self._items)

    @property
    def room(self) -> int:
        return len(self._items) - len(self)

    def free_slot(self) -> Any:
        """The slot to fill before `put`; only with room."""
        assert self.room > 0, "the ring is full"
        return self._items[int(self._words[self._head]) % len(self._items)]

    def put(self) -> None:
        self._words[self._head] += 1

    def oldest(self) -> Any:
        """The slot to read before `take`; only if there is one."""
        assert len(self) > 0, "the ring is empty"
        return self._items[int(self._words[self._tail]) % len(self._items)]

    def take(self) -> None:
        self._words[self._tail] += 1


class LaneMemory:
    """Maps the memory behind `fd` (see `new_memory`), which may be closed afterwards.

    shape: (H, W) of the frames; n_frames: how many of them there is room for.
    """

    def __init__(self, fd: int, shape: tuple[int, int], n_frames: int) -> None:
        self._map = mmap.mmap(fd, size_of(shape, n_frames))
        frame = _frame_type(shape)
        at = _WORDS.itemsize
        words: NDArray[Any] = np.frombuffer(self._map, _WORDS, 1)
        steps: NDArray[Any] = np.frombuffer(self._map, _STEP, N_STEPS, at)
        frames: NDArray[Any] = np.frombuffer(self._map, frame, n_frames, at + N_STEPS * _STEP.itemsize)
        self.words: Any = words[0]
        self._steps = Ring(steps, self.words, "in_head", "in_tail")
        self._frames = Ring(frames, self.words, "out_head", "out_tail")

    @property
    def steps(self) -> Ring:
        return self._steps

    @property
    def frames(self) -> Ring:
        return self._frames

    def put_step(self, epoch: int, index: int, pcm: Float32) -> bool:
        """False if there is no room."""
        if not self._steps.room:
            return False
        slot = self._steps.free_slot()
        slot["epoch"], slot["index"], slot["pcm"] = epoch, index, pcm
        self._steps.put()
        return True

    def put_frame(self, epoch: int, index: int, video: UInt8, heard: Int16 | None, work_ms: float) -> None:
        slot = self._frames.free_slot()
        slot["epoch"], slot["index"], slot["work_ms"], slot["has_sound"] = epoch, index, work_ms, heard is not None
        slot["video"] = video
        if heard is not None:
            slot["heard"] = heard
        self._frames.put()

    def adjust(self, settings: LiveSettings) -> None:
        """For the writer of steps; the newest settings win."""
        words = self.words
        words["speed"], words["motion"] = settings.controls.speed, settings.controls.motion
        for name in ("steps", "small", "sparse", "patient"):
            words[name] = getattr(settings, name)
        words["adjusted"] += 1

    def settings(self) -> LiveSettings:
        """For the reader of steps, when `adjusted` has changed; half of a change is followed by the whole."""
        words = self.words
        return LiveSettings(
            Controls(float(words["speed"]), float(words["motion"])),
            steps=int(words["steps"]),
            small=bool(words["small"]),
            sparse=bool(words["sparse"]),
            patient=bool(words["patient"]),
        )

    def close(self) -> None:
        """May be called twice. Arrays that were read from here must be gone, or the memory stays until they are."""
        self.words = self._steps = self._frames = None  # type: ignore[assignment]
        with contextlib.suppress(BufferError):
            self._map.close()


def n_frames_of(timing: Timing) -> int:
    """Room for two long windows: one is shown while the next one is made."""
    return 2 * timing.longest


def size_of(shape: tuple[int, int], n_frames: int) -> int:
    """Bytes."""
    return _WORDS.itemsize + N_STEPS * _STEP.itemsize + n_frames * _frame_type(shape).itemsize


def new_memory(n_bytes: int) -> int:
    """A file descriptor of zeroed memory that has no name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("emo-live")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, n_bytes)
    return fd


def beat_of(fd: int) -> NDArray[np.int64]:
    """(1,): the heartbeat of an engine process, in memory of BEAT_BYTES behind `fd`."""
    return np.frombuffer(mmap.mmap(fd, BEAT_BYTES), np.int64, 1)
