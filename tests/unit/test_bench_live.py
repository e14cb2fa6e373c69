"""`emo-live bench live` on the control engine: every figure is there, and what it counts is counted."""

from __future__ import annotations

import asyncio

import pytest
from fakes import bundled_avatar

from emo_live.bench_live import WANTED, ControlHost, _Run
from emo_live.types import Progress


@pytest.mark.slow
def test_every_figure_of_a_run() -> None:
    seen: list[Progress] = []
    run = _Run(ControlHost, bundled_avatar(), 256, None, 1, seen.append, 0)
    figures = asyncio.run(asyncio.wait_for(run.measure(), 100))
    assert list(figures) == list(WANTED)
    assert seen == [Progress("render", 0, 2)]
    for name in WANTED:
        if "(ms)" in name and "late" not in name and "engine" not in name:
            assert figures[name] > 0, name
    # A spoken step is 40 ms, and four of them are needed, whatever the machine does.
    assert figures["first frame, as it is spoken: p50 (ms)"] > 140
    assert figures["rung of the degradation ladder"] == 0 or figures["pairs that repeat a picture (%)"] > 5
