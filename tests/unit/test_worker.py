"""Whose window the engine process makes next, and how a session's end of it follows cuts; without a process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from fakes import bundled_avatar

from emo_live.engine.live import LiveSpec, PatternEngine, PatternHost
from emo_live.engine.ring import LaneMemory, new_memory, size_of
from emo_live.engine.worker import StaleError, Worker, WorkerLane

N_FRAMES = 8  # two long windows
STEP = np.zeros(640, np.float32)


class Ends:
    """Both ends of a lane: `here` is the session's, `there` the engine's."""

    def __init__(self) -> None:
        fd = new_memory(size_of((64, 64), N_FRAMES))
        self.here, self.there = LaneMemory(fd, (64, 64), N_FRAMES), WorkerLane(LaneMemory(fd, (64, 64), N_FRAMES))
        os.close(fd)
        self.there.engine = PatternEngine(64)

    def push(self, epoch: int, *indices: int) -> None:
        for index in indices:
            assert self.here.put_step(epoch, index, STEP)

    def cut(self, epoch: int, index: int) -> None:
        self.here.words["rewind_to"], self.here.words["epoch"] = index, epoch

    def work(self) -> list[tuple[int, int]]:
        """Works on all that waits, and takes what came: (epoch, index)."""
        came = []
        for _ in range(100):
            if not self.there.ready:
                break
            self.there.work()
            while len(self.here.frames):
                slot = self.here.frames.oldest()
                came.append((int(slot["epoch"]), int(slot["index"])))
                self.here.frames.take()
        return came


def test_frames_carry_the_index_of_their_step() -> None:
    ends = Ends()
    ends.push(0, *range(6))
    assert ends.work() == [(0, 0), (0, 1), (0, 2), (0, 3)], "the pattern looks two steps ahead"


def test_after_a_cut_only_the_new_epoch_counts() -> None:
    ends = Ends()
    ends.push(0, *range(10))
    assert len(ends.work()) == 8
    ends.push(0, 10, 11)
    ends.cut(1, 5)
    assert ends.there.stale
    ends.push(1, 5, 6, 7)
    assert ends.work() == [(1, 5)] and not ends.there.stale


def test_of_many_cuts_only_the_last_counts() -> None:
    ends = Ends()
    ends.push(0, *range(10))
    ends.work()
    for epoch in range(1, 40):
        ends.cut(epoch, 4)
    ends.push(38, 4, 5)
    ends.push(39, 4, 5, 6)
    assert ends.work() == [(39, 4)]


def test_an_engine_that_replaced_another_goes_on_at_its_index() -> None:
    ends = Ends()
    ends.cut(7, 1000)
    ends.push(7, *range(1000, 1006))
    assert ends.work() == [(7, index) for index in range(1000, 1004)]
    ends.cut(8, 998)  # before its first step: two old frames were not shown
    ends.push(8, *range(998, 1002))
    assert ends.work() == [(8, 998), (8, 999)]
    ends.cut(9, 999)
    ends.push(9, 999, 1000, 1001)
    assert ends.work() == [(9, 999)]


def test_a_full_frame_ring_makes_the_engine_wait() -> None:
    ends = Ends()
    ends.push(0, *range(20))
    while ends.there.ready:
        ends.there.work()
    assert len(ends.here.frames) <= N_FRAMES and len(ends.here.steps) > 0
    for _ in range(len(ends.here.frames)):
        ends.here.frames.take()
    assert ends.there.ready


@pytest.fixture
def worker() -> Iterator[Worker]:
    control, out = socket.socketpair()
    with control, out:
        yield Worker(control, 0, out, np.zeros(1, np.int64))


def test_the_session_that_runs_out_first_is_served_first(worker: Worker) -> None:
    lanes = [Ends() for _ in range(3)]
    for number, (ends, shown) in enumerate(zip(lanes, (0, 6, 3), strict=True)):
        ends.push(0, *range(10))
        ends.work()
        ends.here.words["shown"] = shown
        worker._lanes[number] = ends.there
    assert worker._most_urgent() is None, "nobody has anything to do"
    for ends in lanes:
        ends.push(0, 10)
    assert worker._most_urgent() is lanes[1].there
    worker._last = lanes[1].there
    lanes[2].here.words["shown"] = 6
    assert worker._most_urgent() is lanes[2].there, "of two as urgent, not the same one twice"


def test_a_checkpoint_stops_work_for_a_session_that_has_cut(worker: Worker) -> None:
    ends = Ends()
    worker._checkpoint()
    worker._current = ends.there
    worker._checkpoint()
    ends.cut(1, 0)
    with pytest.raises(StaleError):
        worker._checkpoint()
    assert worker._beat[0] == 3, "every checkpoint is a sign of life"


def test_a_host_makes_one_engine_a_session() -> None:
    host = PatternHost(1, lambda: None)
    engines = [host.open(LiveSpec(bundled_avatar(), 256)) for _ in range(2)]
    assert engines[0] is not engines[1] and engines[0].shape == (256, 256)
