"""Films as the published sizes see them: latents of a take's pictures at 25 a second, its sound, where its face is.

latents/NAME-SIZE.npz: z (T, 4, h, w) and code (4, h, w) of the portrait, float16. Everything else comes from the take
(takes.py). Sound features are made for each window from the sound that a live session would have by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.config import EmoConfig
from emo_live.engine.face_regions import face_regions
from emo_live.errors import BadInputError
from emo_live.models.vae import PictureCodec
from emo_live.models.wav2vec import SoundFeatures
from emo_live.training.clips import heard
from emo_live.training.footage import Footage
from emo_live.training.shards import save
from emo_live.training.takes import FilmParts, cut_frame, read_rows
from emo_live.types import FPS, MODEL_STEP_SAMPLES, Float32

AT_ONCE = 8  # pictures that the codec gets
FIRST_SHARE = 0.1  # of the windows begin a session: their motion frames are the portrait
Batch = dict[str, Tensor]


def latents_file(work: Path, take: str, size_px: int) -> Path:
    return work / "latents" / f"{take}-{size_px}.npz"


def write_latents(work: Path, codec: PictureCodec, size_px: int) -> None:
    """Of every take in clips.csv that has none of this size yet."""
    films: dict[str, list[str]] = {}
    for row in read_rows(work):
        if row.take and not latents_file(work, row.take, size_px).exists():
            films.setdefault(row.film, []).append(row.take)
    for film, takes in films.items():
        pictures = FilmParts(Footage(Path(film)).pictures())
        for name in takes:
            with np.load(work / "clips" / f"{name}.npz") as take:
                z, code = encode_take(take, pictures, codec, size_px)
            save(latents_file(work, name, size_px), z=z, code=code)
            print(f"{name}: {len(z)} pictures", flush=True)


def encode_take(
    take: np.lib.npyio.NpzFile, pictures: FilmParts, codec: PictureCodec, size_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """z, code as the file has them. Each 40 ms step has the picture that is nearest in time: none is mixed."""
    affine, times = take["affine"], take["times"]
    wanted = (int(take["first"]) + np.arange(len(take["pose"]))) / FPS
    nearest = np.abs(times[None] - wanted[:, None]).argmin(1)
    used = set(nearest.tolist())
    done: list[np.ndarray] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        if waiting:
            done.append(codec.encode(as_batch(waiting)).cpu().numpy().astype(np.float16))
            waiting.clear()

    for i, picture in enumerate(pictures.part(int(take["start"]), int(take["stop"]))):
        if i in used:
            waiting.append(cut_frame(picture, affine, size_px))
        if len(waiting) == AT_ONCE:
            flush()
    flush()
    still = cut_frame(take["portrait"], np.array([[1.0, 0, 0], [0, 1, 0]]), size_px)
    code = codec.encode(as_batch([still]))[0].cpu().numpy().astype(np.float16)
    return np.concatenate(done)[np.unique(nearest, return_inverse=True)[1]], code


def as_batch(pictures: list[np.ndarray]) -> Tensor:
    """(H, W, 3) uint8 each -> (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True, slots=True)
class Clip:
    """z: (T, 4, h, w) and code: (4, h, w) float16; pcm: (640 T,) int16; region: (C, H, W); masks: (levels, 3) of
    (h w,) each."""

    z: np.ndarray
    code: np.ndarray
    pcm: Float32
    region: Float32
    masks: tuple[tuple[Float32, ...], ...]


class LatentData:
    """All takes of the given names. hear: features as a live session has them."""

    def __init__(self, work: Path, names: list[str], config: EmoConfig, size_px: int, hear: SoundFeatures):
        self.config, self.hear = config, hear
        self.clips: list[Clip] = []
        for name in names:
            with np.load(work / "clips" / f"{name}.npz") as take, np.load(latents_file(work, name, size_px)) as file:
                region, masks = face_regions(take["outline"], config, size_px)
                levels = tuple(tuple(mask[0] for mask in level) for level in masks)
                self.clips.append(Clip(file["z"], file["code"], heard(take), region[0], levels))

    def batches(self, size: int, lengths: tuple[int, ...], windows: int, seed: int, first: int = 0) -> Iterator[Batch]:
        """(size, windows, ...): random windows, each row's follow each other. The k-th batch depends on k and the seed
        alone; first: the k to begin with. Raises BadInputError if no clip is long enough."""
        longest = windows * max(lengths)
        usable = [clip for clip in self.clips if len(clip.z) >= longest]
        if not usable:
            raise BadInputError(f"no clip has {longest / FPS:.1f} s with one face: give longer ones")
        weights = np.array([len(clip.z) for clip in usable], float)
        for k in count(first):
            random = np.random.default_rng([seed, k])
            frames = int(random.choice(lengths))
            rows = []
            for chosen in random.choice(len(usable), size, p=weights / weights.sum()):
                clip = usable[chosen]
                start = int(random.integers(len(clip.z) - windows * frames + 1))
                start *= random.random() >= FIRST_SHARE
                rows += [self.window(clip, start + i * frames, frames) for i in range(windows)]
            stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            yield {name: value.unflatten(0, (size, windows)) for name, value in stacked.items()}

    def window(self, clip: Clip, start: int, frames: int) -> Batch:
        """z, motion (n, 4, h, w), code, region, features ((T + 2m) blocks, D), mask{level}{part} (h w,)."""
        n = self.config.motion_frames
        past = clip.z[start - n : start] if start >= n else np.broadcast_to(clip.code, (n, *clip.code.shape))
        parts = {f"mask{i}{j}": part for i, level in enumerate(clip.masks) for j, part in enumerate(level)}
        arrays = {"z": clip.z[start : start + frames], "motion": past, "code": clip.code, "region": clip.region}
        row = {name: torch.from_numpy(value.astype(np.float32)) for name, value in (arrays | parts).items()}
        return {**row, "features": self.features(clip, start, frames)}

    def features(self, clip: Clip, start: int, frames: int) -> Tensor:
        """Of a window's frames and their neighbours, from what was heard by then. Before and after a clip it is
        quiet."""
        around = self.config.audio_projection.frames // 2
        end = (start + frames + around) * MODEL_STEP_SAMPLES
        pcm = np.pad(clip.pcm[max(0, end - self.hear.context_samples) : end], (0, max(0, end - len(clip.pcm))))
        return self.hear(pcm[-self.hear.context_samples :], frames + 2 * around).float().cpu()
