"""Goals, summaries and tables of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from emo_live.avatar import Avatar

pytest.importorskip("scipy")

from emo_live.training import evaluate, judging  # noqa: E402


def test_plain_backgrounds() -> None:
    landmarks = np.tile(np.array([[0.3, 0.3], [0.7, 0.8]], np.float32), (239, 1))
    random = np.random.default_rng(0)
    wall = np.full((512, 512, 3), 128, np.uint8)
    leaves = np.repeat(np.repeat(random.integers(255, size=(128, 128, 3)), 4, 0), 4, 1).astype(np.uint8)
    face = wall.copy()
    face[160:400, 160:350] = leaves[160:400, 160:350]
    for picture, plain in ((wall, True), (face, True), (leaves, False)):
        avatar = Avatar(picture, landmarks, picture, np.eye(2, 3))
        assert evaluate.has_plain_background(avatar) is plain


def test_goals_are_judged_only_on_firm_ground() -> None:
    numbers: judging.Numbers = {"av_margin": 0.1, "av_lag_ms": 500.0, "closure_rate": 0.0, "n_bilabials": 3.0}
    assert judging.misses(numbers) == {"av_margin": 0.1}, "no sync: no lag; three p, b, m: no rate"
    assert judging.misses(numbers | {"av_margin": 0.2, "n_bilabials": 4.0}) == {
        "av_margin": 0.2,
        "av_lag_ms": 500.0,
        "closure_rate": 0.0,
    }
    assert judging.misses({"av_margin": None}) == {}, "not measured is not missed"
    assert judging.misses({"flicker_background": 3.0, "plain_background": 0.0}) == {}
    assert judging.misses({"flicker_background": 3.0, "plain_background": 1.0}) == {"flicker_background": 3.0}


def test_summary_and_table() -> None:
    rows: list[judging.Numbers] = [{"av_margin": value} for value in (0.1, 0.3, 0.5)]
    found = judging.summary([*rows, {}])["av_margin"]
    assert (found["median"], found["min"], found["max"], found["judged"]) == (0.3, 0.1, 0.5, 3)
    assert found["good"] == pytest.approx(2 / 3)
    lines = judging.table({"model": rows, "still": []}).splitlines()
    assert lines[2] == "| av_margin | >= 0.28 | 0.300 (0.100 .. 0.500) 67% |  |"
    named = {"model": dict(zip("xyz", rows, strict=True)), "still": {"z": rows[0]}}
    kinds = judging.medians_by_kind(named, {"x": "a", "y": "b", "z": "b", "w": "c"}, "av_margin").splitlines()
    assert kinds[2:] == ["| a | 0.100 (1) |  |", "| b | 0.400 (2) | 0.100 (1) |"]


def test_worst_first() -> None:
    named: dict[str, judging.Numbers] = {
        "fine": {"av_margin": 0.4},
        "bad": {"av_margin": 0.1},
        "worse": {"av_margin": 0.2, "frozen_ratio": 0.5},
    }
    assert judging.worst(named) == ["worse: av_margin 0.200, frozen_ratio 0.500", "bad: av_margin 0.100"]
