"""Opens what lies in a work folder: data, the ear, and the network that stages train."""

from __future__ import annotations

from pathlib import Path

from emo_live.config import TINY
from emo_live.engine.motion_prior import MotionPrior
from emo_live.face.landmarker import BLENDSHAPES
from emo_live.models.autoencoder import Autoencoder
from emo_live.models.hearing import Hearing
from emo_live.training.basis import load_basis
from emo_live.training.motion_data import MotionData
from emo_live.training.pack import Pack
from emo_live.training.run import load_weights, written
from emo_live.training.stages_options import BASIS, PRIOR
from emo_live.training.takes import take_names
from emo_live.training.teacher import Teacher


def motion_data(pack: Path | None, work: Path) -> tuple[MotionData, MotionData]:
    """To train on, and held out: of the pack's portraits and of clips, as far as there are tracks."""
    basis, opened = load_basis(work / BASIS), Pack(pack) if pack else None
    data = []
    for split in ("train", "val"):
        names = [*(opened.portraits(split) if opened else ()), *take_names(work, split)]
        data.append(MotionData(work, names, basis, opened.arkit_names if opened else BLENDSHAPES))
    return data[0], data[1]


def new_autoencoder(work: Path) -> Autoencoder:
    model = Autoencoder(TINY.autoencoder)
    model.flow.basis.load_state_dict(load_basis(work / BASIS).state_dict())
    return model


def autoencoder_of(work: Path) -> Autoencoder:
    """Frozen; with the painter that was trained alone, if a run of it has saved one."""
    model = new_autoencoder(work).eval().requires_grad_(False)
    load_weights(model, work / "autoencoder")
    if (work / "mouth/state.pt").exists():
        load_weights(model, work / "mouth")
    return model


def hearing_of(work: Path) -> Hearing:
    ear = Hearing(TINY.emo.audio_projection).eval().requires_grad_(False)
    load_weights(ear, work / "hearing")
    return ear


def new_model(work: Path) -> Teacher:
    return Teacher(TINY, MotionPrior.load(written(work / PRIOR, "prior")), hearing_of(work))
