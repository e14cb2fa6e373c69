"""The inverse of export: the model that ships as a work folder, to train on from there with one's own data."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from emo_live.config import TINY
from emo_live.errors import BadInputError
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.weights import load_state, part_of
from emo_live.training.basis import save_basis
from emo_live.training.run import SHIPPED
from emo_live.training.stages_options import BASIS, PRIOR

STAGES = {"autoencoder": "autoencoder.", "hearing": "hearing.", "gestures": "gestures.", SHIPPED: "emo."}  # prefixes


def unpack_model(model: Path, work: Path) -> None:
    """Weights of the model in the folder `model` as finished stages in `work`. Raises BadInputError where stages are
    there already."""
    for name in (BASIS, PRIOR, *STAGES):
        if (work / name).exists():
            raise BadInputError(f"{work / name} is there already: give another folder with --work, or remove it")
    state = load_state(model / "weights.safetensors")
    work.mkdir(parents=True, exist_ok=True)
    basis = MotionBasis(TINY.autoencoder)
    basis.load_state_dict(part_of(state, "autoencoder.flow.basis."))
    save_basis(basis, work / BASIS)
    shutil.copyfile(model / "prior.npz", work / PRIOR)
    for stage, prefix in STAGES.items():
        _save(part_of(state, prefix), work / stage)


def _save(weights: dict[str, Tensor], folder: Path) -> None:
    """As `run.load_weights` reads it."""
    folder.mkdir()
    torch.save({"ema": weights, "trained": list(weights)}, folder / "state.pt")
