"""Read access to a data pack: portraits with fitted heads, motion, speech. The pack's own README gives the formats.

Knows nothing of rendering or models. Motion is at 25 fps, speech at 16 kHz mono.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from emo_live.errors import BadInputError
from emo_live.types import MODEL_RATE_HZ, Float32, Int16, UInt8


@dataclass(frozen=True, slots=True)
class Fit:
    """A head fitted to one portrait of 512 px.

    rotation (3, 3); translation (3,) cm; identity (100,); expression (57,); focal length px; points (478, 3) px.
    """

    rotation: Float32
    translation: Float32
    identity: Float32
    expression: Float32
    focal: float
    points: Float32


@dataclass(frozen=True, slots=True)
class Clip:
    """One piece of speech with its motion. text and language are empty where the pack does not know them."""

    name: str
    voice: str
    synthetic: bool
    seconds: float
    language: str
    text: str


class Pack:
    def __init__(self, folder: Path):
        if not (folder / "portraits.csv").exists():
            raise BadInputError(f"{folder} is no data pack: portraits.csv is missing")
        self.folder = folder
        self._fits = np.load(folder / "fits.npz")
        self._motion = [np.load(path) for path in sorted(folder.glob("motion*.npz"))]
        self._archive = {key.removesuffix("/arkit"): i for i, npz in enumerate(self._motion) for key in npz.files}
        self.arkit_names: tuple[str, ...] = tuple(str(name) for name in self._motion[0]["arkit_names"])
        self._speech = {row["clip"]: row for row in self._table("speech.csv")}

    def _table(self, name: str) -> Iterator[dict[str, str]]:
        with (self.folder / name).open(encoding="utf-8", newline="") as table:
            yield from csv.DictReader(table)

    def portraits(self, split: str) -> list[str]:
        return sorted(row["name"] for row in self._table("portraits.csv") if row["split"] == split)

    def portrait(self, name: str) -> UInt8:
        """(512, 512, 3) uint8 RGB."""
        from PIL import Image

        with Image.open(self.folder / "portraits" / f"{name}.jpg") as picture:
            return np.asarray(picture.convert("RGB"))

    def fit(self, name: str) -> Fit:
        def part(key: str) -> Float32:
            return self._fits[f"{name}/{key}"].astype(np.float32)

        return Fit(part("R"), part("t"), part("a"), part("e"), float(self._fits[f"{name}/f"]), part("L"))

    def clips(self, split: str) -> list[Clip]:
        return [
            Clip(name, row["voice"], row["kind"] == "synthetic", float(row["seconds"]), row["language"], row["text"])
            for name, row in sorted(self._speech.items())
            if row["split"] == split and name in self._archive
        ]

    def is_real(self, clip: str) -> bool:
        return self._speech[clip]["kind"] == "real"

    def motion(self, clip: str) -> tuple[Float32, Float32]:
        """ARKit weights (T, 52), named by arkit_names, and pose (T, 6): yaw, pitch, roll in radians, x, y, z in cm."""
        archive = self._motion[self._archive[clip]]
        return archive[f"{clip}/arkit"].astype(np.float32), archive[f"{clip}/pose"].astype(np.float32)

    def speech(self, clip: str) -> Float32:
        """(S,) float32 in [-1, 1]; sample 640 * t belongs to motion frame t."""
        row = self._speech[clip]
        sound = _read_sound(self.folder / row["file"])
        start = int(row["start_sample"])
        return sound[start : start + int(row["samples"])].astype(np.float32) / np.float32(32768)


@lru_cache(maxsize=256)  # all of a pack: 2 MB a minute
def _read_sound(path: Path) -> Int16:
    import soundfile

    samples, rate_hz = soundfile.read(str(path), dtype="int16")
    assert rate_hz == MODEL_RATE_HZ, f"{path} has {rate_hz} Hz"
    return np.asarray(samples, np.int16)
