"""The engine process: one loop that makes the most urgent session's next window. No asyncio, no sound, no network.

It is told of sessions by messages, of steps by rings, and of an interrupt by a word in shared memory that it reads
between any two pieces of work. Models load on threads beside the loop, so that running sessions go on. It ends when the
media process is gone.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from emo_live.engine import channel
from emo_live.engine.live import EngineHost, LiveEngine, LiveSpec
from emo_live.engine.ring import LaneMemory, beat_of, n_frames_of
from emo_live.errors import EmoLiveError
from emo_live.hardware import few_heaps

_IDLE_S = 0.1  # how often an idle process says that it lives


class StaleError(Exception):
    """Leaves a window whose frames nobody wants any more."""


class WorkerLane:
    """One session here. made: index of its next frame."""

    def __init__(self, memory: LaneMemory) -> None:
        self.memory = memory
        self.engine: LiveEngine | None = None
        self.made = 0
        self._epoch = 0
        self._adjusted = 0
        self._offset: int | None = None  # index of the engine's first step, None before that

    @property
    def slack(self) -> int:
        """Frames that are made and not shown: the fewer, the more urgent."""
        return self.made - int(self.memory.words["shown"])

    @property
    def stale(self) -> bool:
        """Whether a newer epoch has begun."""
        return bool(self.memory.words["epoch"] != self._epoch)

    @property
    def ready(self) -> bool:
        """Whether there is a step to take, and room for what it may bring."""
        frames = self.memory.frames
        return self.engine is not None and len(self.memory.steps) > 0 and 2 * frames.room >= frames.size

    def work(self) -> bool:
        """Takes one step; True if frames came of it."""
        self._catch_up()
        slot = self.memory.steps.oldest()
        epoch, index, pcm = int(slot["epoch"]), int(slot["index"]), np.array(slot["pcm"])
        if epoch > self._epoch:
            return False  # its epoch has begun just now
        self.memory.steps.take()
        if epoch < self._epoch:
            return False
        assert self.engine is not None, "only a lane with an engine is ready"
        self._offset = index if self._offset is None else self._offset
        started = time.perf_counter()
        self.engine.push(pcm)
        frames = self.engine.frames()
        work_ms = (time.perf_counter() - started) * 1000 / max(1, len(frames))
        for frame in frames:
            self.memory.put_frame(epoch, frame.index + self._offset, frame.video, frame.heard, work_ms)
            self.made = frame.index + self._offset + 1
        return bool(frames)

    def _catch_up(self) -> None:
        """Follow what the session changed: settings, and where it wants to go on."""
        assert self.engine is not None, "only a lane with an engine is ready"
        words = self.memory.words
        if words["adjusted"] != self._adjusted:
            self._adjusted = int(words["adjusted"])
            self.engine.adjust(self.memory.settings())
        while self.stale:
            # Read in the order opposite to the one they are written in: the index is at least as new as the epoch.
            self._epoch = int(words["epoch"])
            to = int(words["rewind_to"])
            self.engine.rewind(max(0, to - (to if self._offset is None else self._offset)))
            if self._offset is not None and to <= self._offset:
                self._offset = None
            self.made = to


class Worker:
    """control: messages in; wake: a pipe that says "look at the rings"; out: messages and wake-ups to the media loop.

    beat: (1,) int64 in shared memory, counts up as long as work gets done.
    """

    def __init__(self, control: socket.socket, wake: int, out: socket.socket, beat: Any) -> None:
        self._control, self._wake, self._out, self._beat = control, wake, out, beat
        self._lanes: dict[int, WorkerLane] = {}
        self._opening: dict[int, Future[LiveEngine]] = {}
        self._loaders = ThreadPoolExecutor(2, thread_name_prefix="emo-live-load")
        self._current: WorkerLane | None = None
        self._last: WorkerLane | None = None
        self._warm: Future[None] | None = None
        self._host: EngineHost | None = None

    def run(self) -> None:
        factory, threads = channel.receive(self._control)[0]
        self._host = pickle.loads(factory)(threads, self._checkpoint)
        self._warm = self._loaders.submit(self._host.warm)
        try:
            while self._messages(0.0 if self._most_urgent() else _IDLE_S):
                self._beat[0] += 1
                self._finish_opening()
                self._work()
        finally:
            self._loaders.shutdown(wait=False, cancel_futures=True)

    def _checkpoint(self) -> None:
        """Between any two pieces of work."""
        self._beat[0] += 1
        if self._current is not None and self._current.stale:
            raise StaleError

    def _messages(self, timeout_s: float) -> bool:
        """Waits for messages and takes them; False when the media process is gone."""
        opening = bool(self._opening) or (self._warm is not None)
        control = self._control.fileno()
        ready, _, _ = select.select([control, self._wake], [], [], min(timeout_s, 0.01 if opening else _IDLE_S))
        if self._wake in ready and not os.read(self._wake, 4096):
            return False
        if control in ready:
            try:
                message, fd = channel.receive(self._control)
            except (EOFError, OSError):
                return False
            self._take(message, fd)
        return True

    def _take(self, message: Any, fd: int | None) -> None:
        kind, name = message[:2]
        if kind == "open":
            assert fd is not None and self._host is not None, "memory comes along with a session"
            spec: LiveSpec = message[2]
            self._lanes[name] = WorkerLane(LaneMemory(fd, (spec.size, spec.size), n_frames_of(self._host.timing)))
            os.close(fd)
            self._opening[name] = self._loaders.submit(self._host.open, spec)
        elif kind == "close" and name in self._lanes:
            self._opening.pop(name, None)
            self._close(name)

    def _close(self, name: int) -> None:
        lane = self._lanes.pop(name)
        self._last = None if self._last is lane else self._last
        lane.engine = None
        lane.memory.close()

    def _finish_opening(self) -> None:
        if self._warm is not None:
            if not self._warm.done():
                return
            error = self._warm.exception()
            if error is not None:
                channel.send(self._out, ("unfit", -1, _portable(error)))
                raise error
            self._warm = None
            assert self._host is not None, "what is warm is there"
            channel.send(self._out, ("ready", -1, self._host.timing))
        for name, future in list(self._opening.items()):
            if not future.done():
                continue
            del self._opening[name]
            error = future.exception()
            if error is None:
                self._lanes[name].engine = future.result()
                channel.send(self._out, ("opened", name))
            else:
                self._close(name)
                channel.send(self._out, ("failed", name, _portable(error)))

    def _most_urgent(self) -> WorkerLane | None:
        """Of equally urgent ones not the same one twice."""
        ready = [lane for lane in self._lanes.values() if lane.ready]
        return min(ready, key=lambda lane: (lane.slack, lane is self._last), default=None)

    def _work(self) -> None:
        lane = self._current = self._most_urgent()
        if lane is None:
            return
        self._last = lane
        try:
            if lane.work():
                channel.send_wake(self._out)
        except StaleError:
            pass
        except Exception as error:  # this session's engine failed; the others go on
            name = next(name for name, other in self._lanes.items() if other is lane)
            self._close(name)
            channel.send(self._out, ("failed", name, _portable(error)))
        finally:
            self._current = None


def _portable(error: BaseException) -> tuple[bool, str]:
    """Whether it is a complaint about the input or an engine's own failure, and one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return isinstance(error, EmoLiveError), text


def main(control: int, wake: int, out: int, beat: int) -> None:
    """Runs in the engine process; arguments are file descriptors."""
    # Ctrl-C, and what service managers send, go to every process of a service; the media process decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    few_heaps()
    code = 1
    try:
        Worker(socket.socket(fileno=control), wake, socket.socket(fileno=out), beat_of(beat)).run()
        code = 0
    except (BrokenPipeError, ConnectionResetError, EOFError):
        code = 0  # the media process is gone
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)  # runtimes' own threads would hold the process for seconds
