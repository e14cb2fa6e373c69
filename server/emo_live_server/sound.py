"""A sound file that somebody sent, decoded piece by piece on a worker thread, never further ahead than it is heard.

Bounded in bytes by the upload, in time by `max_s`, in memory by one piece. The file is removed when it is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from emo_live.audio.source import AudioFile, to_mono
from emo_live.errors import BadInputError, EngineError
from emo_live.types import AudioChunk, Float32

_PIECE_TIMEOUT_S = 30.0

T = TypeVar("T")


class SoundFile:
    """rate_hz: of the sound. Use `open`, and `close` it."""

    def __init__(self, file: AudioFile, path: Path, worker: ThreadPoolExecutor, max_s: float) -> None:
        self.rate_hz = file.rate_hz
        self._file, self._path, self._worker = file, path, worker
        self._left_samples = round(max_s * file.rate_hz)
        self._pieces = file.chunks()
        self._lock = threading.Lock()  # closing waits for a piece that is being decoded

    @classmethod
    async def open(cls, path: Path, worker: ThreadPoolExecutor, max_s: float) -> SoundFile:
        """Takes the file over, also when it cannot be used. Raises BadInputError: no sound in it, or too long."""
        try:
            file = await _run(worker, lambda: AudioFile(path))
            if file.duration_s is not None and file.duration_s > max_s:
                await _run(worker, file.close)
                raise BadInputError(f"the sound is {file.duration_s:.0f} s long: at most {max_s:.0f} s are taken")
        except BaseException as error:
            _remove(path)
            if isinstance(error, BadInputError):  # the library names files, and this one's name is ours
                said = str(error).replace(str(path), "the file").replace(path.name, "the file")
                raise BadInputError(said) from None
            raise
        return cls(file, path, worker, max_s)

    async def chunks(self) -> AsyncIterator[AudioChunk]:
        """The sound up to the limit, mono; then the file is closed."""
        try:
            while self._left_samples > 0:
                piece = await _run(self._worker, self._next)
                if piece is None:
                    return
                yield AudioChunk(piece[: self._left_samples], self.rate_hz)
                self._left_samples -= len(piece)
        finally:
            await self.close()

    def _next(self) -> Float32 | None:
        with self._lock:
            piece = next(self._pieces, None)
            return None if piece is None else to_mono(piece)

    async def close(self) -> None:
        def close() -> None:
            with self._lock:
                self._file.close()
            _remove(self._path)

        # Goes on when the caller is cancelled: the worker thread owns the file until then.
        await asyncio.shield(_run(self._worker, close))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _run(worker: ThreadPoolExecutor, job: Callable[[], T]) -> T:
    try:
        async with asyncio.timeout(_PIECE_TIMEOUT_S):
            return await asyncio.get_running_loop().run_in_executor(worker, job)
    except TimeoutError:
        raise EngineError("the sound file takes too long to decode") from None
