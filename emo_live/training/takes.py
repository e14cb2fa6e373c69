"""Takes out of a folder of films: stretches with one face, without a cut, with sound.

clips/NAME.npz, one take each: start, stop, its pictures, counted in the film; times (N,) s of these; affine (2, 3), its
square, 512 px to picture px; first, its first 40 ms step in the film; pose (T, 6), arkit (T, 52), pcm (640 T,) int16 of
its steps; portrait, outline, and a few frames with mouth, origin and boxes as in shards.py. clips.csv lists every film
with its takes, or with why it has none. Knows nothing of latents.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np

from emo_live.engine.pictures import MOUTH_SIZE, PORTRAIT_SIZE, mouth_origin
from emo_live.errors import BadInputError
from emo_live.face.crop import cut
from emo_live.face.landmarker import BLENDSHAPES, FaceFinder
from emo_live.face.resample import Affine, invert
from emo_live.training.face_boxes import face_boxes
from emo_live.training.face_track import MIN_S, FaceTrack, Stretch, follow, main_fault, stretches
from emo_live.training.footage import Footage, video_files
from emo_live.training.head_pose import head_poses
from emo_live.training.pixel_encoder import SIDE
from emo_live.training.shards import EVENTS, MARGIN, eventful, save
from emo_live.types import FPS, MODEL_STEP_SAMPLES, Float32, UInt8

SAMPLES = 12  # frames of a take that are kept, for tuning the encoder and for judging it
ON_TIME = 0.05  # share of 40 ms by which a picture may miss its time: containers round
HEARD = 1e-4  # a sound whose loudest sample stays below this is none
HELD_OUT = 10  # every so many-th take is held out where nothing says which
LISTED = "clips.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of clips.csv. Errors are shares of white within the face's box; 0 until they are known."""

    film: str
    take: str  # empty: none
    start_s: float
    seconds: float
    split: str  # train, val, or empty: chosen when read
    note: str
    l1: float = 0.0
    copied_l1: float = 0.0


def read_rows(work: Path) -> list[Row]:
    if not (work / LISTED).exists():
        return []
    with (work / LISTED).open(encoding="utf-8", newline="") as table:
        return [
            Row(film, take, float(start_s), float(seconds), split, note, float(l1), float(copied_l1))
            for film, take, start_s, seconds, split, note, l1, copied_l1 in list(csv.reader(table))[1:]
        ]


def write_rows(work: Path, rows: list[Row]) -> None:
    part = work / f"{LISTED}.part"
    with part.open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    part.replace(work / LISTED)


def take_names(work: Path, split: str) -> list[str]:
    """Takes of one split, train or val. Where the table does not say, every tenth is held out, of fewer the last; one
    alone is both."""
    rows = [row for row in read_rows(work) if row.take]
    undecided = [row.take for row in rows if not row.split]
    held_out = undecided[HELD_OUT - 1 :: HELD_OUT] or undecided[-1:]
    named = {row.take: row.split or ("val" if row.take in held_out else "train") for row in rows}
    return [name for name, part in named.items() if part == split or len(named) == 1]


def split_table(path: Path) -> dict[str, str]:
    """A CSV with the columns clip (a film's name without its ending) and split (train or val)."""
    with path.open(encoding="utf-8", newline="") as table:
        return {row["clip"]: row["split"] for row in csv.DictReader(table)}


def gather(folder: Path, work: Path, splits: dict[str, str]) -> None:
    """Follows the face in every film that clips.csv does not list yet; writes its takes. splits: of films, by stem."""
    rows, finder = read_rows(work), FaceFinder()
    known, taken = {row.film for row in rows}, {row.take for row in rows}
    work.mkdir(parents=True, exist_ok=True)
    for path in video_files(folder):
        if str(path.resolve()) in known:
            continue
        inside = path.relative_to(folder).with_suffix("").as_posix()
        name = unused(f"clip_{re.sub(r'[^A-Za-z0-9]+', '_', inside)}", taken)
        try:
            found = take_film(path.resolve(), name, work / "clips", splits.get(path.stem, ""), finder)
        except BadInputError as error:
            found = [Row(str(path.resolve()), "", 0.0, 0.0, "", str(error))]
        taken |= {name, *(row.take for row in found)}
        rows += found
        write_rows(work, rows)
        seconds = sum(row.seconds for row in found)
        print(f"{path.name}: {seconds:.1f} s in {len(found)}" if seconds else f"skipped: {found[0].note}", flush=True)


def unused(name: str, taken: set[str]) -> str:
    tries = [name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))]
    return next(each for each in tries if each not in taken)


def take_film(path: Path, name: str, out: Path, split: str, finder: FaceFinder) -> list[Row]:
    """Writes the takes of one film. Raises BadInputError, with the film's name, where there is none."""
    footage = Footage(path)
    pcm = footage.sound()
    if float(np.abs(pcm).max(initial=0)) < HEARD:
        raise BadInputError(f"{path.name}: its sound is silent")
    track = follow(footage.pictures(), finder)
    found = stretches(track)
    if not found:
        raise BadInputError(f"{path.name}: {main_fault(track)}")
    rows: list[Row] = []
    pictures = FilmParts(footage.pictures())
    for stretch in found:
        first, steps = steps_of(track.times[stretch.start : stretch.stop], len(pcm))
        if steps < MIN_S * FPS - 3:
            continue
        take = f"{name}-{len(rows)}" if len(found) > 1 else name
        heard = np.clip(pcm[first * MODEL_STEP_SAMPLES : (first + steps) * MODEL_STEP_SAMPLES], -1, 32767 / 32768)
        arrays = describe(track, stretch, pictures, np.arange(first, first + steps) / FPS, take)
        save(out / f"{take}.npz", first=np.array(first), pcm=np.round(heard * 32768).astype(np.int16), **arrays)
        rows.append(Row(str(path), take, first / FPS, steps / FPS, split, ""))
    if not rows:
        raise BadInputError(f"{path.name}: its sound is too short")
    return rows


def steps_of(times: np.ndarray, samples: int) -> tuple[int, int]:
    """The first 40 ms step that lies within pictures at `times`, and how many do that also have sound."""
    first = int(np.ceil(times[0] * FPS - ON_TIME))
    last = int(np.floor(times[-1] * FPS + ON_TIME))
    return first, min(last + 1, samples // MODEL_STEP_SAMPLES) - first


def at_times(values: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N, ...) at times (N,) s -> (T, ...) float32 at the wanted times, linear in between.

    Motion is brought to 25 a second, not pictures: no picture is doubled, dropped or mixed with its neighbour.
    """
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    share = np.clip((wanted - times[after - 1]) / (times[after] - times[after - 1]), 0, 1)
    share = share.reshape(-1, *(1,) * (values.ndim - 1))
    return np.asarray(values[after - 1] * (1 - share) + values[after] * share, np.float32)


class FilmParts:
    """Parts of a film in the order in which they come, without reading it twice."""

    def __init__(self, pictures: Iterator[tuple[float, UInt8]]):
        self._pictures, self._at = pictures, 0

    def part(self, start: int, stop: int) -> Iterator[UInt8]:
        part = islice(self._pictures, start - self._at, stop - self._at)
        self._at = stop
        return (picture for _, picture in part)


def describe(
    track: FaceTrack, stretch: Stretch, pictures: FilmParts, wanted: np.ndarray, name: str
) -> dict[str, np.ndarray]:
    """All arrays of a take but its film and sound. wanted: (T,) s, the times of its 40 ms steps."""
    part = slice(stretch.start, stretch.stop)
    times, arkit = track.times[part], track.arkit[part]
    points = to_square(track.points[part], stretch.affine)
    portrait = stretch.portrait - stretch.start
    corner = np.array(mouth_origin(points[portrait])) - MARGIN
    side = MOUTH_SIZE + 2 * MARGIN
    origin = np.clip(corner, 4, PORTRAIT_SIZE - side - 4) // 4 * 4
    chosen = sampled(arkit, name)
    shots: dict[int, tuple[UInt8, UInt8]] = {}
    for i, picture in enumerate(pictures.part(stretch.start, stretch.stop)):
        if i in chosen:
            shots[i] = (cut_frame(picture, stretch.affine), cut_square(picture, stretch.affine, origin, side))
        if i == portrait:
            still = cut(picture, stretch.affine)
    return {
        **{"start": np.array(stretch.start), "stop": np.array(stretch.stop), "times": times},
        **{"affine": stretch.affine, "outline": points[portrait], "portrait": still, "origin": origin},
        **{"frames": np.stack([shots[i][0] for i in chosen]), "mouth": np.stack([shots[i][1] for i in chosen])},
        "boxes": np.stack([face_boxes(points[i]) for i in chosen]),
        "pose": head_poses(at_times(points, times, wanted)),
        "arkit": at_times(arkit, times, wanted),
    }


def sampled(arkit: Float32, name: str) -> list[int]:
    """Pictures to keep of a take: some at random, some with something rare in them."""
    random = np.random.default_rng(list(name.encode()))
    rare = {eventful(arkit, BLENDSHAPES, random) for _ in range(round(SAMPLES * EVENTS))}
    rest = [int(i) for i in random.permutation(len(arkit)) if i not in rare]
    return sorted([*rare, *rest[: SAMPLES - len(rare)]])


def to_square(points: Float32, affine: Affine) -> Float32:
    """(N, 478, 2) picture px -> shares of the square."""
    inverse = invert(affine)
    # Points are continuous (pixel edges at whole numbers), affines count pixel centres: half a pixel apart.
    local = (points.astype(np.float64) - 0.5) @ inverse[:, :2].T + inverse[:, 2] + 0.5
    return np.asarray(local / PORTRAIT_SIZE, np.float32)


def cut_frame(picture: UInt8, affine: Affine, side: int = SIDE) -> UInt8:
    """(side, side, 3): the whole square."""
    scale = PORTRAIT_SIZE / side
    return cut(picture, np.column_stack([affine[:, :2] * scale, affine @ [(scale - 1) / 2, (scale - 1) / 2, 1]]), side)


def cut_square(picture: UInt8, affine: Affine, origin: np.ndarray, side: int) -> UInt8:
    """(side, side, 3): a part of the square at 512 px, its corner at `origin` (x, y)."""
    return cut(picture, np.column_stack([affine[:, :2], affine @ [*origin, 1]]), side)
