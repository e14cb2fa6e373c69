"""Compiled graphs in the user's cache folder: a later process loads one in a third of the time that compiling takes.

Files are private to the user, written whole and renamed, and begin with the sum of what follows: whatever was cut short
or damaged is compiled again. What is oldest is removed, so that a few hundred MB are never exceeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_live.folders import cache_folder

Buffer = bytes | memoryview
_AT_MOST = 10  # files, of up to 40 MB each
_HEAD_BYTES = 64  # the sum, and zeros: what follows is as aligned as the library likes it
_ENDING, _PART = ".graph", ".part"
_ABANDONED_S = 3600.0  # unfinished files of processes that were killed


def graph_name(*facts: object) -> str:
    """A file's name from everything that a compiled graph depends on; bytes and values whose text is exact."""
    digest = hashlib.sha256()
    for fact in facts:
        part = fact if isinstance(fact, bytes) else str(fact).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:40] + _ENDING


def _head(held: Any) -> bytes:
    return hashlib.sha256(held).digest().ljust(_HEAD_BYTES, b"\0")


class GraphCache:
    """folder: made when something is kept. Nothing here raises: without a cache everything works, and takes longer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_user(cls) -> GraphCache:
        return cls(cache_folder() / "graphs")

    def load(self, name: str) -> NDArray[np.uint8] | None:
        """Mapped from the file."""
        path = self._folder / name
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is empty
            held = np.memmap(path, np.uint8, "r")
            if held[:_HEAD_BYTES].tobytes() == _head(held[_HEAD_BYTES:]):
                os.utime(path)  # it is of use
                return held[_HEAD_BYTES:]
        self.forget(name)
        return None

    def save(self, name: str, make: Callable[[], Buffer]) -> None:
        """Unless it is there."""
        if (self._folder / name).exists():
            return
        part = self._folder / f"{name}.{os.getpid()}.{secrets.token_hex(4)}{_PART}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room()
            held = make()
            with part.open("wb") as file:
                file.write(_head(held))
                file.write(held)
            part.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def forget(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()

    def _make_room(self) -> None:
        """For one more."""
        ages: list[tuple[float, Path]] = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # removed by another process
                ages.append((path.stat().st_mtime, path))
        parts = [path for changed, path in ages if path.suffix == _PART and changed < time.time() - _ABANDONED_S]
        kept = sorted((age for age in ages if age[1].suffix == _ENDING), reverse=True)
        for path in [*parts, *(path for _, path in kept[_AT_MOST - 1 :])]:
            with contextlib.suppress(OSError):
                path.unlink()
