"""The test pattern is the ruler of later timing tests, so it is checked itself."""

from __future__ import annotations

import numpy as np
import pytest

from emo_live.engine.test_pattern import TestPatternEngine, beep, picture, read_index
from emo_live.errors import BadInputError

STEP = np.zeros(640, np.float32)


def test_flash_and_beep_share_a_step() -> None:
    engine = TestPatternEngine(latency=2)
    frames = []
    for _ in range(60):
        engine.push(STEP)
        frames += engine.frames()
    engine.finish()
    frames += engine.frames()
    assert [frame.index for frame in frames] == list(range(60))
    for frame in frames:
        flash, sounding = read_index(frame.video) is None, bool(np.abs(frame.heard).max())
        assert flash == sounding == (frame.index % 25 == 0)


@pytest.mark.parametrize("index", [1, 2, 999, 40_001])
@pytest.mark.parametrize("size", [16, 256, 512])
def test_the_picture_tells_its_index(index: int, size: int) -> None:
    noisy = np.clip(
        picture(index, size).astype(int) + np.random.default_rng(0).integers(-20, 21, (size, size, 1)), 0, 255
    )
    assert read_index(noisy.astype(np.uint8)) == index


def test_latency_holds_frames_back_until_the_end() -> None:
    engine = TestPatternEngine(latency=3)
    for _ in range(3):
        engine.push(STEP)
    assert engine.frames() == []
    engine.push(STEP)
    assert [frame.index for frame in engine.frames()] == [0]


def test_rewind_repeats_what_was_not_shown() -> None:
    engine = TestPatternEngine(latency=0)
    for _ in range(5):
        engine.push(STEP)
    engine.frames()
    engine.cancel()
    engine.push(STEP)
    assert engine.frames() == []
    engine.rewind(2)
    engine.push(STEP)
    assert [frame.index for frame in engine.frames()] == [2]


def test_beeps_are_a_second_apart() -> None:
    loud = [i for i in range(100) if np.abs(beep(i)).max() > 10_000]
    assert loud == [0, 25, 50, 75]


def test_too_small_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least 16"):
        TestPatternEngine(size=8)
