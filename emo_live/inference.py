"""Networks on OpenVINO: how they are compiled, and compiled ones in the user's cache folder.

A later process loads them in a third of the time. Files are private to the user, written whole and renamed, and begin
with the sum of what follows: whatever was cut short or damaged is compiled again. What is oldest is removed, so that a
few hundred MB are never exceeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emo_live.folders import cache_folder
from emo_live.hardware import cpu

if TYPE_CHECKING:
    import openvino

Buffer = bytes | memoryview
_AT_MOST = 16  # files, of up to 40 MB each
_HEAD_BYTES = 64  # the sum, and zeros: what follows is as aligned as the library likes it
_ENDING, _PART = ".graph", ".part"
_ABANDONED_S = 3600.0  # unfinished files of processes that were killed
_CORES: list[openvino.Core] = []
_ONE_CORE = threading.Lock()


def openvino_core() -> openvino.Core:
    """The only one of this process; it stays. Each Core gives a thread a stack of its own for signal handlers and takes
    it away when its last network is freed, on whatever thread and in whatever order: with several, the next Ctrl-C
    would be handled on memory that is gone."""
    import openvino

    with _ONE_CORE:
        if not _CORES:
            _CORES.append(openvino.Core())
        return _CORES[0]


def inference_options(threads: int, precision: str) -> dict[str, object]:
    """For the shortest time of one call. precision: "f32" or "bf16"."""
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # By default the threads of each network keep to the first cores, and two networks at a time, or two processes,
        # would share those while others are idle.
        "ENABLE_CPU_PINNING": False,
    }


def graph_name(options: dict[str, object], *facts: object) -> str:
    """A file's name from everything that a compiled graph depends on. facts: of the graph, bytes and values whose text
    is exact."""
    digest = hashlib.sha256()
    for fact in (*facts, sorted(options.items()), *_runtime()):
        part = fact if isinstance(fact, bytes) else str(fact).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:40] + _ENDING


@cache
def _runtime() -> tuple[str, tuple[str, ...]]:
    """What compiles, and for which machine: looked up once, not for every network."""
    import openvino

    return openvino.get_version(), cpu().features


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

    def network(
        self, name: str, options: dict[str, Any], graph: Callable[[], openvino.Model]
    ) -> tuple[openvino.CompiledModel, bool]:
        """The network of that name, and whether it came from here; else `graph` compiled, which may be kept."""
        import openvino

        core = openvino_core()
        if (held := self.load(name)) is not None:
            try:  # on a copy: OpenVINO goes on using it, and would not keep ours alive
                return core.import_model(openvino.Tensor(held), "CPU", options), True
            except RuntimeError:  # made by another kind of machine after all
                self.forget(name)
        return core.compile_model(graph(), "CPU", options), False

    def keep(self, name: str, network: openvino.CompiledModel) -> None:
        self.save(name, lambda: network.export_model().getbuffer())

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
