"""The parts under a session by themselves: clock, pacer, playout buffer, ladder, speech queue, rings, messages."""

from __future__ import annotations

import asyncio
import os
import socket

import numpy as np
import pytest
from virtual_time import run

from emo_live.audio.utterance import SILENCE, SpeechQueue, Step
from emo_live.engine import channel
from emo_live.engine.live import LiveSettings
from emo_live.engine.ring import N_STEPS, LaneMemory, new_memory, size_of
from emo_live.engine.window import Controls
from emo_live.errors import NotReadyError
from emo_live.media.clock import MAX_LATE_S, MediaClock
from emo_live.media.ladder import HELD, Ladder
from emo_live.media.pacer import Pacer
from emo_live.media.playout import Playout
from emo_live.types import STEP_S

N_FRAMES = 8
PICTURE = np.zeros((4, 4, 3), np.uint8)


class Time:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_has_no_drift() -> None:
    time = Time()
    clock = MediaClock(time)
    assert clock.until_due(0) == 0
    for index in range(100_000):
        time.now = max(time.now, 5000.0 + index * STEP_S + (index % 7) * 0.001)
        assert clock.until_due(index) == pytest.approx(5000 + index * STEP_S - time.now, abs=1e-6)
    assert clock.jumps == 0


@pytest.mark.parametrize("jump_s", [-86_400.0, -1.0, MAX_LATE_S + 0.05, 1.0, 86_400.0])
def test_the_schedule_moves_with_a_clock_that_jumps(jump_s: float) -> None:
    time = Time()
    clock = MediaClock(time)
    clock.until_due(10)
    time.now += jump_s
    assert clock.until_due(11) == 0, "neither a rush nor a wait"
    assert clock.until_due(12) == pytest.approx(STEP_S)
    assert clock.jumps == 1


def test_the_pacer_catches_up_and_survives_what_it_calls() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[tuple[int, float]] = []

        def release(index: int) -> None:
            calls.append((index, loop.time() - began))
            if index == 3:
                raise RuntimeError("once")
            if index == 5:
                loop.jump(0.1)  # type: ignore[attr-defined]

        pacer, began = Pacer(release), loop.time()
        task = asyncio.create_task(pacer.run())
        await asyncio.sleep(1)
        task.cancel()
        assert [index for index, _ in calls] == list(range(len(calls)))
        late = [at - index * STEP_S for index, at in calls]
        assert max(late[:5]) < 1e-6 and late[6] == pytest.approx(0.06) and max(late[9:]) < 1e-6
        assert pacer.late_ms()[1] > 0 and pacer.jumps == 0

    run(main())


def spoken(name: str) -> Step:
    return Step(SILENCE.model, SILENCE.heard, name)


def test_playout_joins_frames_with_their_own_sound() -> None:
    playout = Playout()
    steps = [spoken(f"u{i}") for i in range(3)]
    assert [playout.send(step) for step in steps] == [0, 1, 2]
    assert playout.take() is None, "both media are held"
    for index in range(2):
        assert playout.arrived(0, index, PICTURE)
    shown = [playout.take(), playout.take()]
    assert [ready.step for ready in shown if ready] == steps[:2]
    assert (playout.ahead, playout.depth, playout.shown, playout.awaited) == (1, 0, 2, True)


@pytest.mark.parametrize(("epoch", "index"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_frames_that_nobody_waits_for_are_dropped(epoch: int, index: int) -> None:
    playout = Playout()
    playout.send(SILENCE)
    assert not playout.arrived(epoch, index, PICTURE)
    assert playout.dropped == {"stale": 1} and not playout.depth


def test_a_cut_keeps_what_bridges_and_returns_the_rest() -> None:
    playout = Playout()
    steps = [spoken(str(i)) for i in range(6)]
    for step in steps:
        playout.send(step)
    for index in range(4):
        playout.arrived(0, index, PICTURE)
    playout.take()
    assert playout.cut(1, "idle") == steps[2:]
    assert (playout.epoch, playout.next, playout.depth, playout.dropped) == (1, 2, 1, {"idle": 2})
    assert not playout.arrived(0, 2, PICTURE), "of the old epoch"
    playout.send(SILENCE)
    assert playout.arrived(1, 2, PICTURE)


def test_speech_queue_puts_back_in_order_and_knows_who_is_next() -> None:
    queue = SpeechQueue()
    first, second = queue.begin(), queue.begin()
    first.push(np.full(1280, 0.5, np.float32), 16_000, 1.0)
    second.push(np.full(640, 0.5, np.float32), 16_000, 1.0)
    second.end()
    assert queue.feeding() is first
    taken = list(first.steps)
    first.steps.clear()
    assert queue.feeding() is first, "it may get more"
    first.end()
    taken += first.steps
    first.steps.clear()
    assert queue.feeding() is second
    queue.put_back([*taken, SILENCE, second.steps.popleft()])
    assert queue.feeding() is first and list(first.steps) == taken and len(taken) == 2 and len(second.steps) == 1
    first.heard = first.total
    assert queue.take_done() == [first]
    assert queue.clear() == [second] and second.cancelled and queue.first is None


def test_the_number_of_waiting_utterances_is_bounded() -> None:
    queue = SpeechQueue()
    with pytest.raises(NotReadyError, match="wait already"):
        for _ in range(1000):
            queue.begin()


def test_the_ladder_goes_down_step_by_step_and_up_again() -> None:
    ladder = Ladder()
    seen = [ladder.level]
    for _ in range(2000):
        ladder.tick(late=2)
        seen += [ladder.level] * (seen[-1] != ladder.level)
    assert seen == [0, 1, 2, 3, HELD], "and no further"
    for _ in range(60 * 25):
        ladder.tick()
        seen += [ladder.level] * (seen[-1] != ladder.level)
    assert seen == [0, 1, 2, 3, HELD, 3, 2, 1, 0]


def test_the_ladder_skips_rungs_without_effect_and_forgives_single_lates() -> None:
    ladder = Ladder(usable=[3])
    for index in range(5000):
        ladder.tick(late=1 if index % 50 == 0 else 0)
    assert ladder.level == 0
    for _ in range(200):
        ladder.tick(late=1)
    assert ladder.level in (3, HELD)


def test_going_up_too_early_takes_longer_the_next_time() -> None:
    ladder, ups, tick = Ladder(usable=[]), [], 0
    while len(ups) < 4:
        tick += 1
        before = ladder.level
        ladder.tick(late=0 if ladder.level == HELD else 2)
        if before == HELD and ladder.level == 0:
            ups.append(tick)
    pauses = np.diff(ups)
    assert pauses[1] > 1.5 * pauses[0] and pauses[2] > 1.5 * pauses[1]


@pytest.fixture
def memories() -> tuple[LaneMemory, LaneMemory]:
    """The same memory, mapped twice as two processes do."""
    fd = new_memory(size_of((4, 4), N_FRAMES))
    pair = LaneMemory(fd, (4, 4), N_FRAMES), LaneMemory(fd, (4, 4), N_FRAMES)
    os.close(fd)
    return pair


def test_rings_keep_order_are_bounded_and_wrap(memories: tuple[LaneMemory, LaneMemory]) -> None:
    here, there = memories
    sent = taken = 0
    for rounds in range(50):
        while here.put_step(rounds, sent, np.full(640, sent, np.float32)):
            sent += 1
        assert sent - taken == N_STEPS
        for _ in range(1 + rounds % N_STEPS):
            slot = there.steps.oldest()
            assert slot["index"] == taken and (slot["pcm"] == taken).all()
            there.steps.take()
            taken += 1
    for index in range(3 * N_FRAMES):
        there.put_frame(7, index, np.full((4, 4, 3), index, np.uint8), np.full(1920, -index, np.int16), 1.5)
        slot = here.frames.oldest()
        assert (slot["epoch"], slot["index"], slot["work_ms"], slot["has_sound"]) == (7, index, 1.5, 1)
        assert (slot["video"] == index).all() and (slot["heard"] == -index).all()
        here.frames.take()
    assert there.frames.room == N_FRAMES
    del slot  # it looks into the memory that is closed now
    here.close()
    here.close()
    there.close()


def test_settings_travel_whole(memories: tuple[LaneMemory, LaneMemory]) -> None:
    here, there = memories
    for settings in (LiveSettings(Controls(7.5, 0.25), 3, True, False, False), LiveSettings(sparse=True)):
        here.adjust(settings)
        assert there.settings() == settings


def test_messages_arrive_whole_with_their_descriptor() -> None:
    one, other = socket.socketpair()
    fd = new_memory(8)
    with one, other:
        one.settimeout(5)
        other.settimeout(5)
        channel.send(one, ("open", 1, b"x" * 50_000), fd)
        message, received = channel.receive(other)
        assert message == ("open", 1, b"x" * 50_000) and received is not None
        assert os.fstat(received).st_size == 8
        os.close(received)
        os.close(fd)
        channel.send_wake(other)
        channel.send(other, ("ready", -1))
        parser, found = channel.Parser(), []
        data = one.recv(1000)
        for i in range(len(data)):
            found += parser.messages(data[i : i + 1])
        assert found == [None, ("ready", -1)]
        other.close()
        with pytest.raises(EOFError):
            channel.receive(one)
