"""Lets a video file be written on a thread of its own, a few MB behind whoever makes the pictures.

What waits is bounded in bytes, so a slow encoder slows the caller down instead of filling the memory. Knows nothing of
engines. One caller; a failure of the writer is raised by the caller's next call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from emo_live.transport.file import VideoFileWriter
from emo_live.types import Float32, UInt8

LIMIT_BYTES = 24_000_000  # 30 pictures of 512 px


class BackgroundWriter:
    """A context manager around an open VideoFileWriter, which it neither closes nor aborts.

    Leaving it normally waits until everything is written; leaving it by an exception drops what waits.
    """

    def __init__(self, writer: VideoFileWriter, limit_bytes: int = LIMIT_BYTES) -> None:
        self._writer, self._limit_bytes = writer, limit_bytes
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting_bytes = 0
        self._over = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="emo-live-encode", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            if kind is not None:
                self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def write_video(self, rgb: UInt8) -> None:
        """As VideoFileWriter.write_video, later. The picture must not be changed any more."""
        self._put(rgb.nbytes, lambda: self._writer.write_video(rgb))

    def write_audio(self, pcm: Float32) -> None:
        """As VideoFileWriter.write_audio, later. The sound must not be changed any more."""
        self._put(pcm.nbytes, lambda: self._writer.write_audio(pcm))

    def _put(self, size_bytes: int, job: Callable[[], None]) -> None:
        with self._changed:
            # The thread ends only by a failure, or when this caller says so: waiting for it needs no timeout.
            self._changed.wait_for(lambda: self._failure is not None or self._has_room(size_bytes))
            if self._failure is not None:
                raise self._failure
            self._waiting.append((size_bytes, job))
            self._waiting_bytes += size_bytes
            self._changed.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        # One item always fits, however large.
        return not self._waiting_bytes or self._waiting_bytes + size_bytes <= self._limit_bytes

    def _work(self) -> None:
        try:
            while (item := self._next()) is not None:
                size_bytes, job = item
                job()
                del job, item  # or the picture would live until the next one comes
                with self._changed:
                    self._waiting_bytes -= size_bytes
                    self._changed.notify_all()
        except BaseException as error:  # raised again on the caller's thread
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> tuple[int, Callable[[], None]] | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._over)
            return self._waiting.popleft() if self._waiting else None
