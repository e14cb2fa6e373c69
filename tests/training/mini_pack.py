"""A data pack in the pack's own formats with made-up numbers: two voices, one of them of a real talker."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from emo_live.training.pack import Pack
from emo_live.types import FPS, MODEL_RATE_HZ, MODEL_STEP_SAMPLES, Float32

FRAMES = {"made_1": 120, "made_2": 125, "real_1": 130, "real_2": 100}  # clip -> frames of motion
GAP = MODEL_RATE_HZ // 10  # silence between the clips of a file
SPOKEN = slice(20, 90)  # frames in which something is said


def arkit(names: tuple[str, ...], frames: int, seed: int) -> Float32:
    """(T, 52): every weight around a level of its own, in 0.1 .. 0.9."""
    random = np.random.default_rng(seed)
    level, swing = random.uniform(0.3, 0.6, len(names)), random.uniform(0.05, 0.2, len(names))
    phase = random.uniform(0, 6, len(names)) + np.arange(frames)[:, None] * random.uniform(0.2, 0.6, len(names))
    return (level + swing * np.sin(phase)).astype(np.float32)


def speech(frames: int, seed: int) -> Float32:
    """(640 T,): noise while something is said, nothing around it."""
    random = np.random.default_rng(seed)
    loud = np.zeros(frames * MODEL_STEP_SAMPLES, np.float32)
    loud[SPOKEN.start * MODEL_STEP_SAMPLES : SPOKEN.stop * MODEL_STEP_SAMPLES] = 0.1
    return (random.normal(size=len(loud)) * loud).astype(np.float32)


def write_pack(folder: Path, names: tuple[str, ...]) -> Pack:
    folder.mkdir(parents=True, exist_ok=True)
    _table(
        folder / "portraits.csv", [{"name": n, "split": s} for n, s in (("b", "train"), ("a", "train"), ("c", "val"))]
    )
    (folder / "portraits").mkdir(exist_ok=True)
    Image.new("RGB", (512, 512), (200, 100, 50)).save(folder / "portraits" / "a.jpg", quality=95)
    fit = {
        "R": np.eye(3),
        "t": np.arange(3.0),
        "a": np.zeros(100),
        "e": np.zeros(57),
        "f": 900.0,
        "L": np.ones((478, 3)),
    }
    np.savez(folder / "fits.npz", **{f"a/{key}": np.float32(value) for key, value in fit.items()})
    rows = []
    for kind in ("made", "real"):
        clips = [name for name in FRAMES if name.startswith(kind)]
        motion = {f"{c}/arkit": arkit(names, FRAMES[c], i).astype(np.float16) for i, c in enumerate(clips)}
        motion |= {f"{c}/pose": _pose(FRAMES[c], i).astype(np.float16) for i, c in enumerate(clips)}
        file = "motion_synthetic.npz" if kind == "made" else "motion.npz"
        np.savez(folder / file, arkit_names=np.array(names), fps=FPS, **motion)
        start, sounds = 0, []
        for i, clip in enumerate(clips):
            pcm = speech(FRAMES[clip] + 1, 10 + i)[: -MODEL_STEP_SAMPLES // 2]  # half a step more than motion
            row = {"clip": clip, "file": f"speech/{kind}.wav", "start_sample": start, "samples": len(pcm)}
            row |= {"kind": "synthetic" if kind == "made" else "real", "voice": f"{kind}_voice", "language": "en"}
            rows.append(row | {"seconds": len(pcm) / MODEL_RATE_HZ, "text": "", "split": "val" if i else "train"})
            sounds += [pcm, np.zeros(GAP, np.float32)]
            start += len(pcm) + GAP
        (folder / "speech").mkdir(exist_ok=True)
        soundfile.write(folder / "speech" / f"{kind}.wav", np.concatenate(sounds), MODEL_RATE_HZ, subtype="PCM_16")
    _table(folder / "speech.csv", rows)
    return Pack(folder)


def _pose(frames: int, seed: int) -> Float32:
    """(T, 6): a head that turns by a fraction of a degree."""
    t = np.arange(frames)[:, None] / FPS
    return (0.005 * np.sin(t * np.array([1.0, 1.3, 0.7, 2, 3, 4]) + seed)).astype(np.float32)


def _table(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
