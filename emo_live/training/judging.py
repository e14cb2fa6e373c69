"""Numbers of videos by the external evaluator (the Python package `evaluate` of the project's tools), goals and tables.

The evaluator has measures of its own making: lip sync by speech features, identity, blinks, steadiness. It is not on a
package index and not needed to train; whoever judges installs it from its folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from emo_live.errors import NotSupportedError

INF = math.inf
Numbers = dict[str, float | str | None]
HELP = (
    "judging needs the evaluator, the package emo-live-evaluate: pip install 'PATH/TO/tools/evaluate[phones]',"
    " or give --no-judge"
)


@dataclass(frozen=True, slots=True)
class Goal:
    """Good from low to high. A number may only be judged where another one, `needs`, is at least so much."""

    low: float
    high: float
    needs: tuple[str, float] | None = None

    def judges(self, numbers: Numbers, name: str) -> bool:
        least = -INF if self.needs is None else _number(numbers, self.needs[0])
        return not math.isnan(_number(numbers, name)) and (self.needs is None or least >= self.needs[1])

    def met(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.high == INF:
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if self.low == -INF else f"{self.low:g} .. {self.high:g}"


GOALS: dict[str, Goal] = {
    "av_margin": Goal(0.28, INF),
    "av_lag_ms": Goal(-45, 45, ("av_margin", 0.18)),
    "closure_rate": Goal(0.8, INF, ("n_bilabials", 4)),
    "identity_mean": Goal(0.85, INF),
    "blink_rate_per_min": Goal(6, 45, ("duration_s", 8)),
    "head_motion_deg": Goal(0.8, 6),
    "silent_mouth_std": Goal(-INF, 0.015),
    "longest_freeze_ms": Goal(-INF, 80),
    "frozen_ratio": Goal(-INF, 0.05),
    "flicker_background": Goal(-INF, 1, ("plain_background", 1)),
    "sharpness_face": Goal(0.6, 1.6),
    "mouth_range": Goal(0.05, 0.35),
    "audio_delay_ms": Goal(-25, 25),
}
DRIFT: dict[str, Goal] = {
    "drift_identity": Goal(-0.05, INF),
    "drift_sharpness": Goal(0.8, 1.25),
    "drift_colour": Goal(-INF, 2.5),
}
WORST = 8
BY_CLEAN_SOUND = ("closure_rate", "n_bilabials", "vowel_open_rate", "silent_mouth_std")


@dataclass(frozen=True, slots=True)
class Words:
    """What is said in a video, and the sound, as long as the video's and without noise, that shows when."""

    text: str
    sound: Path


class Judge:
    """Loads the evaluator's networks once."""

    def __init__(self) -> None:
        try:
            self._video, self._media = import_module("evaluate.video"), import_module("evaluate.media")
            self._meter = self._video.Meter()
        except ModuleNotFoundError as error:
            raise NotSupportedError(HELP) from error

    def __call__(self, video: Path, portrait: Path, sound: Path, words: Words) -> Numbers:
        """What is measured of a video is kept beside it, as NAME.json, as long as the video does not change."""
        kept = video.with_suffix(".json")
        if kept.exists() and kept.stat().st_mtime >= video.stat().st_mtime:
            loaded: Numbers = json.loads(kept.read_text())
            return loaded
        track = self._meter.track(video, None)
        measured = self._meter.measure(video, portrait=portrait, audio=sound, max_s=None, track=track)
        measured |= self._by_clean_sound(track, words)
        numbers: Numbers = {name: _plain(value) for name, value in measured.items() if name != "video"}
        kept.write_text(json.dumps(numbers, indent=1))
        return numbers

    def _by_clean_sound(self, track: Any, words: Words) -> dict[str, float]:
        """What noise would hide: when p, b and m are, and when nothing is said. No words found: no closures."""
        if not any(track.faces):
            return {}
        sound = self._media.audio(words.sound)
        try:
            found = self._video.lips(track, sound, words.text or None)
        except RuntimeError:  # PocketSphinx, when it cannot align
            found = self._video.lips(track, sound, None)
        return {name: found[name] for name in BY_CLEAN_SOUND if name in found}


def _plain(value: object) -> float | str | None:
    if isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _number(numbers: Numbers, name: str) -> float:
    value = numbers.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def misses(numbers: Numbers, goals: Mapping[str, Goal] = GOALS) -> dict[str, float]:
    """Names and values of the goals that a video does not meet."""
    judged = {name: _number(numbers, name) for name, goal in goals.items() if goal.judges(numbers, name)}
    return {name: value for name, value in judged.items() if not goals[name].met(value)}


def summary(rows: Sequence[Numbers], goals: Mapping[str, Goal] = GOALS) -> dict[str, dict[str, float]]:
    """For each number: median, min, max, share of the judged videos that meet the goal, how many were judged."""
    out = {}
    for name, goal in goals.items():
        values = [_number(row, name) for row in rows if goal.judges(row, name)]
        if values:
            out[name] = {
                "median": float(np.median(values)),
                "min": min(values),
                "max": max(values),
                "good": float(np.mean([goal.met(value) for value in values])),
                "judged": len(values),
            }
    return out


def table(measured: Mapping[str, Sequence[Numbers]], goals: Mapping[str, Goal] = GOALS) -> str:
    """Markdown: a row for each number, a column for each condition: median (min .. max), share that is good."""
    sums = {condition: summary(rows, goals) for condition, rows in measured.items()}
    lines = [_line(["number", "good", *sums]), _line(["---"] * (2 + len(sums)))]
    for name, goal in goals.items():
        cells = []
        for values in sums.values():
            s = values.get(name)
            text = f"{_short(s['median'])} ({_short(s['min'])} .. {_short(s['max'])}) {s['good']:.0%}" if s else ""
            cells.append(text)
        lines.append(_line([name, str(goal), *cells]))
    return "\n".join(lines)


def medians_by_kind(measured: Mapping[str, Mapping[str, Numbers]], kinds: Mapping[str, str], name: str) -> str:
    """Markdown: medians of one number and of how many, a row for each kind of trial, a column for each condition.

    measured: condition, trial, numbers; kinds: of trials by name.
    """
    lines = [_line([name, *measured]), _line(["---"] * (1 + len(measured)))]
    for kind in dict.fromkeys(kinds.values()):
        cells = []
        for rows in measured.values():
            own = [_number(row, name) for trial, row in rows.items() if kinds[trial] == kind]
            values = [value for value in own if not math.isnan(value)]
            cells.append(f"{_short(float(np.median(values)))} ({len(values)})" if values else "")
        if any(cells):
            lines.append(_line([kind, *cells]))
    return "\n".join(lines)


def worst(named: Mapping[str, Numbers]) -> list[str]:
    """One line for each of the videos that miss most, the worst first."""
    missed = {name: misses(numbers) for name, numbers in named.items()}
    order = sorted(missed, key=lambda name: (-len(missed[name]), _number(named[name], "av_margin")))
    return [
        f"{name}: " + ", ".join(f"{what} {_short(value)}" for what, value in missed[name].items())
        for name in order[:WORST]
        if missed[name]
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"
