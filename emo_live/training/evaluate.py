"""`emo-live train evaluate`: videos of held-out portraits and voices in several conditions, judged.

Needs the extra `train`; puppets need EGL; judging needs the external evaluator (see judging.py). One thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from emo_live.avatar import Avatar
from emo_live.errors import BadInputError
from emo_live.training.baselines import CONDITIONS, Studio
from emo_live.training.contact_sheet import STRIP, Row, draw_sheet
from emo_live.training.judging import (
    DRIFT,
    GOALS,
    Judge,
    Numbers,
    Words,
    medians_by_kind,
    summary,
    table,
    worst,
)
from emo_live.training.pack import Pack
from emo_live.training.performance import Performance
from emo_live.training.trials import LONG, Trial, act, long_trial, spread, trials
from emo_live.types import MODEL_STEP_SAMPLES

Measured = dict[str, dict[str, Numbers]]  # condition, trial
MAIN = ("model", "puppet")
LASTING = "model"  # which gets the long trial
WHOLE = (0, 1)
HEAD = 1.5  # so much larger than the face
PLAIN = 2.5  # grey levels a px at 256 px


def evaluate(
    pack: Pack,
    out: Path,
    conditions: Sequence[str] = CONDITIONS,
    *,
    count: int | None = None,
    few: int | None = None,
    long_s: float = 0,
    size: int = 256,
    judge: bool = True,
    share: tuple[int, int] = (0, 1),
) -> str:
    """Makes and judges the videos, writes out/results.json and a sheet for each condition; returns the tables.

    count: of the trials, for the model and the puppet; few: for the other conditions; None: all. share: this process
    does only the i-th of n parts; videos and their numbers are kept, so a later call for the whole just gathers them.
    """
    unknown = [name for name in conditions if name not in CONDITIONS]
    if unknown:
        raise BadInputError(f"{unknown[0]} is no condition: choose from {', '.join(CONDITIONS)}")
    every = trials(pack)
    chosen = {name: spread(every, count if name in MAIN else few) for name in conditions}
    judging = Judge() if judge else None  # before the long work: it may be missing
    studio = Studio(pack, spread(every, count), out, size)
    measured: Measured = {}
    for condition, own in chosen.items():
        measured[condition] = {}
        if long_s and condition == LASTING:
            own.append(long_trial(pack, long_s))
        for trial in own[share[0] :: share[1]]:
            print(f"{condition} {trial.name}", flush=True)
            video = studio.video(condition, trial)
            if judging is not None:
                words = Words(trial.text, studio.sound(trial.clean))
                portrait, sound = studio.portrait(condition, trial), studio.sound(trial)
                plain: Numbers = {"plain_background": float(has_plain_background(Avatar.prepare(portrait)))}
                measured[condition][trial.name] = judging(video, portrait, sound, words) | plain
        if own and share == WHOLE:
            draw_sheet(out / condition / "sheet.jpg", _rows(studio, condition, own))
    if judging is None or share != WHOLE:
        return f"videos are in {out}"
    return _report(measured, {trial.name: trial for own in chosen.values() for trial in own}, out)


def _rows(studio: Studio, condition: str, chosen: Sequence[Trial]) -> list[Row]:
    rows = []
    for trial in chosen:
        mouth = Avatar.prepare(studio.portrait(condition, trial)).mouth_box
        start = lively(act(studio.pack, trial))
        rows.append(Row(f"{condition}  {trial.name}", studio.video(condition, trial), mouth, start))
    return rows


def has_plain_background(avatar: Avatar) -> bool:
    """Whether most of what lies outside the head is smooth: only there does flicker mean more than motion."""
    grey = np.asarray(Image.fromarray(avatar.portrait).convert("L").resize((256, 256)), np.float32)
    y, x = (np.mgrid[0:256, 0:256] + 0.5) / 256
    box = avatar.face_box
    across, down = (x - box.centre[0]) / (HEAD * box.width / 2), (y - box.centre[1]) / (HEAD * box.height / 2)
    slope = np.hypot(*np.gradient(grey))
    return bool(np.median(slope[across**2 + down**2 > 1]) < PLAIN)


def lively(show: Performance) -> int:
    """Where the strip of a sheet begins: the STRIP pictures with the most sound."""
    power = np.square(show.pcm.reshape(-1, MODEL_STEP_SAMPLES)).mean(1)
    return int(np.convolve(np.sqrt(power), np.ones(STRIP), "valid").argmax()) if len(power) > STRIP else 0


def _report(measured: Measured, named: dict[str, Trial], out: Path) -> str:
    short = {
        condition: {name: numbers for name, numbers in of.items() if name != LONG} for condition, of in measured.items()
    }
    rows = {condition: list(of.values()) for condition, of in short.items()}
    results = {
        "trials": [asdict(trial) for trial in named.values()],
        "numbers": measured,
        "summary": {condition: summary(part) for condition, part in rows.items()},
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    parts = []
    if any(rows.values()):
        kinds = {name: trial.kind for name, trial in named.items()}
        counts = ", ".join(f"{condition} {len(part)}" for condition, part in rows.items())
        parts = [f"trials: {counts}; median (min .. max), share that is good", table(rows)]
        parts += [medians_by_kind(short, kinds, name) for name in ("av_margin", "closure_rate")]
    for condition, of in short.items():
        lines = worst(of)
        parts.append("\n".join([f"worst of {condition}:", *(f"- {line}" for line in lines)]) if lines else "")
    lasting = {condition: [of[LONG]] for condition, of in measured.items() if LONG in of}
    if lasting:
        parts += ["one long video", table(lasting, DRIFT | GOALS)]
    text = "\n\n".join(part for part in parts if part)
    (out / "results.md").write_text(text + "\n")
    return text
