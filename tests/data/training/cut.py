"""Cuts this folder's files out of a work folder of `emo-live train`: python cut.py WORK PACK. README.md
says what is in them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from emo_live.training.pack import Pack
from emo_live.types import MODEL_STEP_SAMPLES

HERE = Path(__file__).parent
FRAMES = {"faker_female_4": 4, "faker_male_61": 4}  # portrait -> rendered frames
TRACKS = {"faker_female_4": "kokoro_af_bella_A360", "faker_male_61": "hibari_heart_H081"}
LENGTH = 64  # frames of a track
Z_STEP, SOUND_STEP = 1 / 64, 1 / 16  # what latents and sound features are rounded to


def picture(name: str, array: np.ndarray) -> None:
    """(..., W, 3) as one picture, rows below each other."""
    flat = array.reshape(-1, *array.shape[-2:])
    Image.fromarray(flat).save(HERE / f"{name}.jpg", quality=92, subsampling=0)


def cut_frames(work: Path, name: str, count: int) -> None:
    """The frames with the widest open mouths and every third of the others."""
    with np.load(work / "frames" / f"{name}.npz") as file:
        opened = file["motion"][..., 2].astype(np.float32).sum((1, 2)).argsort()[::-1]
        chosen = [int(opened[i]) for i in (0, 3, 8, 20)][:count]
        picture(f"{name}_portrait", file["portrait"])
        picture(f"{name}_frames", file["frames"][chosen])
        picture(f"{name}_mouth", file["mouth"][chosen])
        rest = {key: file[key][chosen] for key in ("motion", "boxes")}
        np.savez_compressed(HERE / f"{name}_frames.npz", origin=file["origin"], outline=file["outline"], **rest)


def cut_track(work: Path, pack: Pack, portrait: str, name: str) -> None:
    with np.load(work / "tracks" / f"{portrait}.npz") as file:
        k = list(file["names"]).index(name)
        z = np.round(file[f"z{k}"][:LENGTH].astype(np.float32) / Z_STEP).astype(np.int16)
        rest = {key: file[f"{key}{k}"][:LENGTH] for key in ("pose", "arkit", "silent")}
        outline, small = file["outline"], file["portrait"]
    heard = np.load(work / "sound" / f"{name}.npy", mmap_mode="r")[0, : LENGTH // 2 + 1].astype(np.float32)
    sound = np.clip(np.round(heard / SOUND_STEP), -127, 127).astype(np.int8)
    pcm = np.round(pack.speech(name)[: LENGTH * MODEL_STEP_SAMPLES] * 32767).astype(np.int16)
    picture(f"{portrait}_small", small)
    arrays = {"z": z, "sound": sound, "pcm": pcm, "name": np.array(name), "outline": outline}
    np.savez_compressed(HERE / f"{portrait}_track.npz", **arrays, **rest)


def main(work: Path, pack: Pack) -> None:
    for name, count in FRAMES.items():
        cut_frames(work, name, count)
    for portrait, name in TRACKS.items():
        cut_track(work, pack, portrait, name)
    state = torch.load(work / "basis.pt", map_location="cpu", weights_only=True)
    np.savez_compressed(HERE / "basis.npz", **{key: value.numpy() for key, value in state.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Pack(Path(sys.argv[2])))
