"""The model that ships as the beginning of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emo_live.config import TINY
from emo_live.engine.backend_openvino import ASSETS
from emo_live.engine.motion_prior import MotionPrior
from emo_live.errors import BadInputError
from emo_live.models.autoencoder import Autoencoder
from emo_live.models.gestures import Gestures
from emo_live.models.weights import load_state, part_of
from emo_live.training.basis import load_basis
from emo_live.training.run import load_weights
from emo_live.training.unpack import unpack_model
from emo_live.training.work_folder import autoencoder_of, hearing_of, new_model


def test_stages_take_up_what_ships(tmp_path: Path) -> None:
    work, state = tmp_path / "work", load_state(ASSETS / "weights.safetensors")
    unpack_model(ASSETS, work)
    painter, drawn, model = Autoencoder(TINY.autoencoder), Gestures(TINY.gestures), new_model(work)
    load_weights(painter, work / "autoencoder")
    load_weights(drawn, work / "gestures")
    load_weights(model, work / "shipped")
    parts = {"emo.": model, "autoencoder.": painter, "gestures.": drawn, "hearing.": hearing_of(work)}
    for prefix, module in parts.items():
        wanted = part_of(state, prefix)
        missing = set(module.state_dict()) - set(wanted)
        assert all(name.startswith(("shape_head", "prior", "hearing")) for name in missing), missing
        assert all(torch.equal(module.state_dict()[name], value) for name, value in wanted.items())
    assert torch.equal(load_basis(work / "basis.pt").basis, painter.flow.basis.basis)
    assert MotionPrior.load(work / "prior.npz")
    (work / "mouth").mkdir()  # a run that was stopped before it saved anything
    taken_up = autoencoder_of(work).state_dict()
    assert all(torch.equal(taken_up[name], value) for name, value in painter.state_dict().items())


def test_nothing_that_was_trained_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "gestures").mkdir()
    with pytest.raises(BadInputError, match="gestures is there already"):
        unpack_model(ASSETS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gestures"]
