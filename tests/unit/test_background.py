"""BackgroundWriter: order kept, memory bounded, failures passed on, nothing written after an exception."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from emo_live.transport.background import BackgroundWriter


class Recorder:
    """Takes what a VideoFileWriter takes; waits for `gate`, and fails at item `fail_at`."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.items: list[int] = []
        self.gate = threading.Event()
        self.fail_at = fail_at

    def write_video(self, rgb: Any) -> None:
        assert self.gate.wait(20)
        if len(self.items) == self.fail_at:
            raise OSError("no room")
        self.items.append(int(rgb.flat[0]))

    write_audio = write_video


def picture(value: int) -> Any:
    return np.full((10, 10, 1), value, np.uint8)  # 100 bytes


def test_everything_is_written_in_order_before_it_is_left() -> None:
    writer = Recorder()
    with BackgroundWriter(writer, 100_000) as background:  # type: ignore[arg-type]
        for value in range(50):
            (background.write_video if value % 3 else background.write_audio)(picture(value))
        assert writer.items == []
        writer.gate.set()
    assert writer.items == list(range(50))


def test_the_caller_waits_when_too_much_waits() -> None:
    writer = Recorder()
    given: list[int] = []

    def give(background: BackgroundWriter) -> None:
        for value in range(20):
            background.write_video(picture(value))
            given.append(value)

    with BackgroundWriter(writer, 350) as background:  # type: ignore[arg-type]
        thread = threading.Thread(target=give, args=(background,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and len(given) <= 3, "three items of 100 bytes fit"
        writer.gate.set()
        thread.join(20)
    assert writer.items == given == list(range(20))


def test_one_item_always_fits() -> None:
    writer = Recorder()
    writer.gate.set()
    with BackgroundWriter(writer, 10) as background:  # type: ignore[arg-type]
        for value in range(5):
            background.write_video(picture(value))
    assert writer.items == list(range(5))


def test_a_failure_reaches_the_caller_even_while_it_waits() -> None:
    writer = Recorder(fail_at=1)
    writer.gate.set()
    with (
        pytest.raises(OSError, match="no room"),
        BackgroundWriter(writer, 150) as background,  # type: ignore[arg-type]
    ):
        for value in range(100):
            background.write_video(picture(value))
    assert writer.items == [0]


def test_a_failure_of_the_last_item_is_not_lost() -> None:
    writer = Recorder(fail_at=2)
    with (
        pytest.raises(OSError, match="no room"),
        BackgroundWriter(writer, 100_000) as background,  # type: ignore[arg-type]
    ):
        for value in range(3):
            background.write_video(picture(value))
        writer.gate.set()


def test_an_exception_drops_what_waits() -> None:
    writer = Recorder()
    with (
        pytest.raises(KeyError),
        BackgroundWriter(writer, 100_000) as background,  # type: ignore[arg-type]
    ):
        for value in range(30):
            background.write_video(picture(value))
        threading.Timer(0.2, writer.gate.set).start()
        raise KeyError
    assert len(writer.items) <= 1
