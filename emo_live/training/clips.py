"""Takes of films as training data for every later stage: tracks/NAME.npz and sound/NAME.npy, as shards.py and sound.py
have them, and how well the latents in them describe the films.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.engine.pictures import MOUTH_SIZE
from emo_live.errors import BadInputError
from emo_live.face.landmarker import BLENDSHAPES
from emo_live.face.resample import resize
from emo_live.models.audio import WhisperEncoder
from emo_live.models.autoencoder import Autoencoder
from emo_live.training.encoder_stage import (
    Task,
    face_errors,
    load_encoder,
    reconstruct,
    save_strips,
    strips,
    train,
)
from emo_live.training.footage import Footage
from emo_live.training.frame_data import Shard, load_shards
from emo_live.training.performance import one_scale, unvoiced
from emo_live.training.pixel_encoder import SIDE, PixelEncoder, as_pictures, encode_frames, half_size
from emo_live.training.run import Budget
from emo_live.training.shards import MARGIN, save
from emo_live.training.sound import prepare_sound
from emo_live.training.takes import FilmParts, at_times, cut_frame, read_rows, take_names, write_rows
from emo_live.training.work_folder import autoencoder_of
from emo_live.types import FPS, Float32

SHOWN = 12  # takes in the picture for the eye
ENCODER, TUNED = "encoder", "encoder_tuned"  # folders of the two trainings


def load_takes(work: Path, names: list[str]) -> list[Shard]:
    """The kept frames of takes. Motion is unknown and given as none, incisors stand in the middle of the mouth."""
    shards = []
    for name in names:
        with np.load(work / "clips" / f"{name}.npz") as file:
            still = np.broadcast_to(np.zeros((), np.float16), (len(file["frames"]), 128, 128, 3))
            known = {key: file[key] for key in ("frames", "mouth", "portrait", "origin", "boxes")}
        middle = np.array(known["origin"][0] + MARGIN + MOUTH_SIZE / 2, np.float32)
        shards.append(Shard(**known, motion=still, incisors=middle))
    return shards


def encode(work: Path) -> dict[str, float]:
    """Tracks of all takes, made by the encoder that was trained last; returns what `judge` says of it."""
    trained = [path for name in (ENCODER, TUNED) if (path := work / name / "state.pt").exists()]
    if not trained:
        raise BadInputError(f"no encoder in {work}: train it with `emo-live train encoder`")
    newest = max(trained, key=lambda path: path.stat().st_mtime)
    encoder = load_encoder(work, newest.parent.name)
    write_tracks(work, encoder, newest.stat().st_mtime)
    return judge(work, encoder, autoencoder_of(work))


def write_tracks(work: Path, encoder: PixelEncoder, newer_than_s: float) -> None:
    """Writes tracks/NAME.npz of every take that has none made after a time: that of the encoder's training."""
    films: dict[str, list[str]] = {}
    for row in read_rows(work):
        target = work / "tracks" / f"{row.take}.npz"
        if row.take and not (target.exists() and target.stat().st_mtime > newer_than_s):
            films.setdefault(row.film, []).append(row.take)
    for film, takes in films.items():
        pictures = FilmParts(Footage(Path(film)).pictures())
        for name in takes:
            with np.load(work / "clips" / f"{name}.npz") as take:
                write_track(take, name, pictures, encoder, work / "tracks")


def write_track(take: np.lib.npyio.NpzFile, name: str, pictures: FilmParts, encoder: PixelEncoder, out: Path) -> None:
    affine, portrait = take["affine"], resize(take["portrait"], SIDE, SIDE)
    part = pictures.part(int(take["start"]), int(take["stop"]))
    frames = np.stack([cut_frame(picture, affine) for picture in part])
    pose, steps = take["pose"], len(take["pose"])
    wanted = (int(take["first"]) + np.arange(steps)) / FPS
    z = at_times(encode_frames(encoder, portrait, frames), take["times"], wanted)
    # the pose belongs to the latents, which nobody scales; the weights only teach the sound's projection
    arkit, _ = one_scale(take["arkit"], pose, BLENDSHAPES)
    silent = unvoiced(heard(take), steps)
    arrays = {"z0": z.astype(np.float16), "pose0": pose, "arkit0": arkit, "silent0": silent}
    save(out / f"{name}.npz", names=np.array([name]), portrait=portrait, outline=take["outline"], **arrays)


def heard(take: np.lib.npyio.NpzFile) -> Float32:
    """A take's sound (640 T,)."""
    return np.asarray(take["pcm"] / np.float32(32768), np.float32)


def write_sound(work: Path, whisper: WhisperEncoder, *, variants: int, seed: int) -> None:
    """Writes sound/NAME.npy of every take that lacks it."""
    names = [row.take for row in read_rows(work) if row.take]

    def sound(name: str) -> Float32:
        return heard(np.load(work / "clips" / f"{name}.npz"))

    prepare_sound(names, sound, work / "sound", whisper, variants=variants, seed=seed)


def plain_batch(shard: Shard) -> dict[str, Tensor]:
    """All frames of a shard as FrameBatches gives them, unchanged; without their motion."""
    inner, count = slice(MARGIN, MARGIN + MOUTH_SIZE), len(shard.frames)
    portrait = as_pictures(shard.portrait[None])
    return {
        "frame": as_pictures(shard.frames),
        "mouth": as_pictures(shard.mouth[:, inner, inner]),
        "portrait": portrait.expand(count, -1, -1, -1),
        "origin": torch.from_numpy(shard.origin + MARGIN).expand(count, -1),
        "boxes": torch.from_numpy(shard.boxes),
    }


def judge(work: Path, encoder: PixelEncoder, autoencoder: Autoencoder) -> dict[str, float]:
    """Writes into clips.csv how far each take's kept frames are from what is decoded from their latents, and from the
    bare portrait; clips.png shows the widest mouths. Returns the medians over the takes."""
    rows, figures, shown = [], [], []
    for row in read_rows(work):
        if row.take:
            batch = plain_batch(load_takes(work, [row.take])[0])
            out = reconstruct(encoder, autoencoder, batch)
            copied = face_errors(half_size(batch["portrait"]), batch)
            figures.append([float(error.mean()) for error in (*face_errors(out["picture"], batch), *copied)])
            row = replace(row, l1=round(figures[-1][0], 5), copied_l1=round(figures[-1][2], 5))
            widest = int(copied[1].argmax())
            shown.append(strips(batch, out)[widest : widest + 1])
        rows.append(row)
    write_rows(work, rows)
    if shown:
        save_strips(shown[:: -(-len(shown) // SHOWN)], work / "clips.png")
    names = ("l1", "mouth_l1", "copied_l1", "copied_mouth_l1")
    return dict(zip(names, np.median(figures, axis=0).tolist(), strict=True)) if figures else {}


def tune(work: Path, names: tuple[list[str], list[str]], budget: Budget) -> dict[str, float]:
    """Goes on training the encoder with the takes. names: portraits in frames/ to train on and to hold out, or none."""
    shards = [load_shards(work / "frames", part) if part else [] for part in names]
    takes, unseen = (load_takes(work, take_names(work, split)) for split in ("train", "val"))
    task = Task(shards[0], shards[1], takes, unseen)
    return train(task, load_encoder(work, ENCODER), autoencoder_of(work), work / TUNED, budget)
