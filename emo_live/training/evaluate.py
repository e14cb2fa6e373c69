"""`emo-live train evaluate`: videos of held-out portraits and voices in several conditions, judged.

Needs the extra `train`; puppets need EGL; judging needs the external evaluator (see judging.py). One thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from emo_live.avatar import Avatar
from emo_live.errors import BadInputError
from emo_live.training.baselines import CONDITIONS, Studio
from emo_live.training.contact_sheet import STRIP, Row, draw_sheet
from emo_live.training.judging import (
    DRIFT,
    GOALS,
    Judge,
    Numbers,
    medians_by_kind,
    summary,
    table,
    worst,
)
from emo_live.training.pack import Pack
from emo_live.training.performance import Performance
from emo_live.training.trials import LONG, Trial, act, long_trial, spread, trials
from emo_live.types import MODEL_STEP_SAMPLES, Box

Measured = dict[str, dict[str, Numbers]]  # condition, trial


def evaluate(
    pack: Pack,
    out: Path,
    conditions: Sequence[str] = CONDITIONS,
    *,
    count: int | None = None,
    long_s: float = 0,
    size: int = 256,
    judge: bool = True,
) -> str:
    """Makes and judges the videos, writes out/results.json and a sheet for each condition; returns the tables."""
    unknown = [name for name in conditions if name not in CONDITIONS]
    if unknown:
        raise BadInputError(f"{unknown[0]} is no condition: choose from {', '.join(CONDITIONS)}")
    short = spread(trials(pack), count)
    chosen = [*short, long_trial(pack, long_s)] if long_s else short
    judging = Judge() if judge else None  # before the long work: it may be missing
    studio = Studio(pack, short, out, size)
    measured: Measured = {}
    for condition in conditions:
        measured[condition] = {}
        for trial in chosen:
            if trial.name == LONG and condition == "wrong-audio":
                continue
            print(f"{condition} {trial.name}", flush=True)
            video = studio.video(condition, trial)
            if judging is not None:
                portrait, sound = studio.portrait(condition, trial), studio.sound(trial)
                measured[condition][trial.name] = judging(video, portrait, sound, trial.text)
        draw_sheet(out / condition / "sheet.jpg", _rows(studio, condition, chosen))
    if judging is None:
        return f"videos and sheets are in {out}"
    return _report(measured, chosen, out)


def _rows(studio: Studio, condition: str, chosen: Sequence[Trial]) -> list[Row]:
    rows = []
    for trial in chosen:
        video = studio.out / condition / f"{trial.name}.mp4"
        if video.exists():
            mouth = _mouth(studio.portrait(condition, trial))
            rows.append(Row(f"{condition}  {trial.name}", video, mouth, lively(act(studio.pack, trial))))
    return rows


def _mouth(portrait: Path) -> Box:
    return Avatar.prepare(portrait).mouth_box


def lively(show: Performance) -> int:
    """Where the strip of a sheet begins: the STRIP pictures with the most sound."""
    power = np.square(show.pcm.reshape(-1, MODEL_STEP_SAMPLES)).mean(1)
    return int(np.convolve(np.sqrt(power), np.ones(STRIP), "valid").argmax()) if len(power) > STRIP else 0


def _report(measured: Measured, chosen: Sequence[Trial], out: Path) -> str:
    short = [trial for trial in chosen if trial.name != LONG]
    rows = {condition: [of[trial.name] for trial in short] for condition, of in measured.items()}
    results = {
        "trials": [asdict(trial) for trial in chosen],
        "numbers": measured,
        "summary": {condition: summary(part) for condition, part in rows.items()},
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    parts = []
    if short:
        kinds = [trial.kind for trial in short]
        parts = [f"{len(short)} trials: median (min .. max), share that is good", table(rows)]
        parts += [medians_by_kind(rows, kinds, name) for name in ("av_margin", "closure_rate")]
    for condition, of in measured.items():
        lines = worst({name: numbers for name, numbers in of.items() if name != LONG})
        parts.append("\n".join([f"worst of {condition}:", *(f"- {line}" for line in lines)]) if lines else "")
    lasting = {condition: [of[LONG]] for condition, of in measured.items() if LONG in of}
    if lasting:
        parts += ["one long video", table(lasting, DRIFT | GOALS)]
    text = "\n\n".join(part for part in parts if part)
    (out / "results.md").write_text(text + "\n")
    return text
