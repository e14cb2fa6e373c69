"""What the benchmark makes of what a browser saw, without a browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("aiortc", reason='needs the extra "server"')

from emo_live.errors import EngineError
from emo_live_server.browser_bench.chromium import SETTLING_S, Viewing, percentile, summarize
from emo_live_server.browser_bench.processes import burdened, free_port, running, usage

REPORT = {"codec": "video/H264", "freezes": 1, "freeze_s": 0.5}
SETTLED_MS = SETTLING_S * 1000


def viewing(*, late_ms: float, beeps: int = 20, frames: int = 500) -> Viewing:
    """A flash each second; the sound of the first seconds is far off, as it is in browsers."""
    seconds = [1000.0 * k for k in range(20)]
    heard = [at + (late_ms if at >= SETTLED_MS else 300.0) for at in seconds]
    return Viewing(tuple(seconds), tuple(heard[:beeps]), tuple(40.0 * k for k in range(frames)), 400.0, REPORT)


def test_offset_is_the_sounds_lateness_once_it_has_settled() -> None:
    summary = summarize(viewing(late_ms=35.0))
    assert summary.offset_ms == 35.0
    assert summary.spread_ms == 0.0
    assert summary.seconds_compared == 8


def test_early_sound_is_negative() -> None:
    assert summarize(viewing(late_ms=-120.0)).offset_ms == -120.0


def test_flashes_without_a_beep_are_not_compared() -> None:
    assert summarize(viewing(late_ms=0.0, beeps=15)).seconds_compared == 3
    nothing = summarize(viewing(late_ms=0.0, beeps=0))
    assert nothing.offset_ms is None
    assert nothing.spread_ms is None


def test_gaps_are_counted_after_the_first_seconds() -> None:
    even = [40.0 * k for k in range(200)]
    frames = (0.0, 900.0, *(SETTLED_MS + at for at in even))
    summary = summarize(Viewing((), (), frames, 1.0, REPORT))
    assert (summary.gap_p50_ms, summary.gap_p95_ms, summary.gap_max_ms) == (40.0, 40.0, 40.0)
    assert summary.fps == pytest.approx(25.0)


def test_a_viewing_without_pictures_is_no_error() -> None:
    assert summarize(Viewing((), (), (), float("nan"), REPORT)).offset_ms is None


def test_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 100) == 2.0


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_usage_counts_this_process() -> None:
    mine = usage(os.getpid())
    assert mine is not None
    assert mine.cpu_s > 0
    assert mine.rss_mb > 10
    assert usage(2**22 + 1) is None


def test_a_server_that_ends_at_once_is_reported_with_its_last_line() -> None:
    with pytest.raises(EngineError, match="No module named"), running("no_such_module", port=free_port()):
        pass


def test_a_burden_ends_with_its_block() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = children()
    with burdened(2):
        assert len(children() - before) == 2
    assert children() <= before
