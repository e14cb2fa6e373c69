"""Compact weight files give back every tensor, by name, within the rounding that they promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from emo_live.config import TINY
from emo_live.errors import EngineError
from emo_live.models.autoencoder import FlowDecoder
from emo_live.models.weights import load_state, pack_state, part_of, unpack_state

Draw = Callable[..., Tensor]


def test_every_name_comes_back() -> None:
    """Also a tensor that is itself called scale."""
    state = FlowDecoder(TINY.autoencoder).state_dict()
    assert "basis.scale" in state
    back = unpack_state(pack_state(state, ()))
    assert {name: value.shape for name, value in back.items()} == {name: v.shape for name, v in state.items()}


def test_rounding(draw: Draw) -> None:
    state = {"large": draw(64, 80), "small": draw(5, 5), "exact.large": draw(64, 80), "count": torch.tensor(7)}
    packed = pack_state(state, ("exact.",))
    assert packed["large"].dtype == torch.int8
    assert packed["small"].dtype == packed["exact.large"].dtype == torch.float16
    back = unpack_state(packed)
    step = state["large"].abs().amax(1, keepdim=True) / 127
    assert ((back["large"] - state["large"]).abs() <= step / 2 + 1e-6).all()
    assert torch.equal(back["exact.large"], state["exact.large"].half().float())
    assert back["count"] == 7
    again = unpack_state(pack_state(back, ("exact.",)))
    assert all(torch.equal(again[name], back[name]) for name in back), "a packed state packs to itself"


def test_file(draw: Draw, tmp_path: Path) -> None:
    state = {"a.weight": draw(64, 80), "a.bias": draw(64).half().float(), "b.bias": draw(3)}
    save_file(pack_state(state, ()), tmp_path / "weights.safetensors")
    part = part_of(load_state(tmp_path / "weights.safetensors"), "a.")
    assert set(part) == {"weight", "bias"}
    assert torch.equal(part["bias"], state["a.bias"])


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="reinstall"):
        load_state(tmp_path / "weights.safetensors")
