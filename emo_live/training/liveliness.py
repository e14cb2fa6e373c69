"""How much the shipped model moves faces, against the true motion of held-out tracks: velocity energy of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from emo_live.avatar import Avatar
from emo_live.engine.base import Backend
from emo_live.engine.pictures import PORTRAIT_SIZE
from emo_live.engine.tiny import Motion, TinyGenerator
from emo_live.engine.window import Controls, PicturesTaken, RollingWindow, WindowPolicy
from emo_live.models.autoencoder import MotionBasis
from emo_live.training.pack import Pack
from emo_live.training.performance import perform
from emo_live.training.roll_out import velocity_energy
from emo_live.types import MODEL_STEP_SAMPLES, Float32, UInt8

WINDOW = 8  # frames
_NO_PICTURE: UInt8 = np.zeros((1, 1, 3), np.uint8)


class _Watched(TinyGenerator):
    """Keeps the latents in the place of pictures."""

    def pictures(self, latents: Sequence[Motion]) -> PicturesTaken:
        self.made = [*getattr(self, "made", []), *(motion.latents for motion in latents)]
        return lambda: [_NO_PICTURE] * len(latents)


def energies(
    backend: Backend, pack: Pack, work: Path, basis: MotionBasis, names: Sequence[str], speed: float
) -> list[float]:
    """For each portrait its first track's velocity energy as the model makes it, as a share of the true one's."""
    shares = []
    for name in names:
        with np.load(work / "tracks" / f"{name}.npz") as track:
            picture, outline = track["portrait"], track["outline"].astype(np.float32)
            true, performance = track["z0"].astype(np.float32), str(track["names"][0])
        avatar = Avatar.prepare(pack.portrait(name), largest_face=True)
        drawn = np.asarray(Image.fromarray(picture).resize((PORTRAIT_SIZE, PORTRAIT_SIZE), Image.Resampling.BICUBIC))
        avatar = replace(avatar, portrait=drawn, landmarks=outline)  # the crop that the track was drawn in
        made = _moved(backend, avatar, perform(pack, performance).pcm, speed)[: len(true)]
        shares.append(float(velocity_energy(made, basis).mean() / velocity_energy(true, basis).mean()))
    return shares


def _moved(backend: Backend, avatar: Avatar, pcm: Float32, speed: float) -> Float32:
    """(T, C, h, w)"""
    generator = _Watched(backend, backend.prepare(avatar), size=256, controls=Controls(speed))
    window = RollingWindow(generator, WindowPolicy((WINDOW,)))
    for step in pcm[: len(pcm) // MODEL_STEP_SAMPLES * MODEL_STEP_SAMPLES].reshape(-1, MODEL_STEP_SAMPLES):
        window.push(step)
        window.frames()
    window.finish()
    window.frames()
    return np.stack(generator.made)
