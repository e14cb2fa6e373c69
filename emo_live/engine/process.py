"""Starts, watches and ends one engine process. Runs on the media loop and never blocks it.

The process is a plain child that imports the package anew, so a program that uses it needs no `if __name__` guard, and
nothing of the parent is copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from emo_live import hardware
from emo_live.engine import channel
from emo_live.engine.live import EngineFactory, LiveSpec
from emo_live.engine.ring import BEAT_BYTES, beat_of, new_memory
from emo_live.errors import BadInputError, EngineError

log = logging.getLogger(__name__)
WATCH_EVERY_S = 0.1
STUCK_S = 0.75  # without a single piece of work done; the longest of the tiny model takes a fifteenth of it
STOPPED_CPU_S, BUSY_CPU_S = 0.03, 0.6  # used meanwhile: less is a process that waits forever, more one that spins
STARVED_S = 5.0  # between the two it is waiting for its turn
_PIECES_S = 15  # pieces of work that are waited for before a process counts as stuck
_SEND_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 2.0
_CODE = "import sys; from emo_live.engine.worker import main; main(*map(int, sys.argv[1:]))"


class EngineProcess:
    """take(kind, name, *rest) gets its messages; "frames" says that rings have some, "dead" is the last."""

    def __init__(self, take: Callable[..., None]) -> None:
        self._take = take
        self._parser = channel.Parser()
        self._sending = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._sockets: list[socket.socket] = []
        self._wake = -1
        self._beat: Any = None

    async def start(self, factory: EngineFactory, threads: int) -> None:
        """Returns at once; ("ready", -1) comes when it is warm. Raises BadInputError for a factory without a name."""
        try:
            hello = (pickle.dumps(factory), threads)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise BadInputError(f"an engine is a class or function at the top of a module: {error}") from None
        control, control_child = socket.socketpair()
        out, out_child = socket.socketpair()
        wake_child, self._wake = os.pipe()
        beat = new_memory(BEAT_BYTES)
        self._sockets = [control, out]
        self._beat = beat_of(beat)
        control.settimeout(_SEND_TIMEOUT_S)
        out.setblocking(False)
        os.set_blocking(self._wake, False)
        fds = (control_child.fileno(), wake_child, out_child.fileno(), beat)
        try:
            self._child = _spawn(fds)  # some milliseconds, and nothing that a cancellation could leave half done
        finally:
            control_child.close()
            out_child.close()
            os.close(wake_child)
            os.close(beat)
        asyncio.get_running_loop().add_reader(out, self._readable)
        await self._send(hello)

    @property
    def beat(self) -> int:
        """Counts up as long as it works."""
        return int(self._beat[0])

    def cpu_s(self) -> float | None:
        """Seconds of CPU that it has used; None where the system does not tell."""
        return hardware.process_cpu_s(self.pid)

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else -1

    def wake(self) -> None:
        """Rings or words have changed."""
        # A full pipe wakes it as well, and a process that is gone is noticed by its socket.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, OSError):
            os.write(self._wake, b"w")

    async def open(self, name: int, spec: LiveSpec, memory_fd: int) -> None:
        """("opened", name) or ("failed", name, (is_ours, text)) answers."""
        await self._send(("open", name, spec), memory_fd)

    async def close(self, name: int) -> None:
        await self._send(("close", name))

    async def _send(self, message: Any, fd: int | None = None) -> None:
        try:
            await asyncio.to_thread(self._send_now, message, fd)
        except OSError as error:
            raise EngineError(f"the engine process does not listen: {error}") from None

    def _send_now(self, message: Any, fd: int | None) -> None:
        with self._sending:
            channel.send(self._sockets[0], message, fd)

    def _readable(self) -> None:
        try:
            data = self._sockets[1].recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop_reading()
            self._take("dead", -1)
            return
        for message in self._parser.messages(data):
            if message is None:
                self._take("frames", -1)
            else:
                self._take(*message)

    def _stop_reading(self) -> None:
        if self._sockets and self._sockets[1].fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sockets[1])

    async def stop(self, *, kill: bool = False) -> None:
        """Ends it and frees everything. kill: do not ask first. May be called twice."""
        self._stop_reading()
        for sock in self._sockets:
            sock.close()  # which tells it to end
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
        child, self._child = self._child, None
        if child is None:
            return
        if kill:
            child.kill()
        try:
            await asyncio.to_thread(child.wait, _END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            await asyncio.to_thread(child.wait, _END_TIMEOUT_S)


def _spawn(fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", _CODE, *map(str, fds)]
    # It finds this package, and a caller's own engines, where this process does.
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path)
    return subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path})


class Pulse:
    """Tells a process that is stuck from one that waits for its turn on a busy CPU: it has used some, but not much.

    piece_s: the longest piece of work that it does between two beats.
    """

    def __init__(self, piece_s: float) -> None:
        longer = max(1.0, _PIECES_S * piece_s / STUCK_S)  # than the engines that the limits were made for
        self._stuck_s, self._starved_s, self._busy_cpu_s = STUCK_S * longer, STARVED_S * longer, BUSY_CPU_S * longer
        self._beat, self._cpu_s, self._still_s, self._looked = -1, 0.0, 0.0, 0.0

    def check(self, process: EngineProcess) -> str:
        """What is wrong with it, or nothing. To be called every WATCH_EVERY_S."""
        now, cpu_s = asyncio.get_running_loop().time(), process.cpu_s()
        # A media loop that stood still itself has seen nothing: it counts one look, however long.
        passed, self._looked = min(now - self._looked, 2 * WATCH_EVERY_S), now
        if process.beat != self._beat:
            self._beat, self._still_s, self._cpu_s = process.beat, 0.0, cpu_s or 0.0
            return ""
        self._still_s += passed
        used_s = None if cpu_s is None else cpu_s - self._cpu_s
        starved = used_s is not None and STOPPED_CPU_S < used_s < self._busy_cpu_s
        if self._still_s <= (self._starved_s if starved else self._stuck_s):
            return ""
        return f"the engine process was stuck for {self._still_s:.1f} s"
