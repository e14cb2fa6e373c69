"""Compact weight files: large matrices and kernels as 8-bit integers with a scale a row, all else as half floats.

A state dict that went through `compacted` holds exactly the values that its file gives back, so every runtime that is
fed from it computes with the same weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from emo_live.errors import EngineError

LEAST_VALUES = 4096  # smaller tensors are not worth the rounding
_SCALE = ".scale"


def compactable(weight: Tensor) -> bool:
    return weight.is_floating_point() and weight.ndim >= 2 and weight.numel() >= LEAST_VALUES and weight.shape[0] > 1


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(O, ...) -> int8 (O, ...) and float32 scales (O, 1, ...): weight is about their product."""
    rest = tuple(range(1, weight.ndim))
    scale = weight.float().abs().amax(rest, keepdim=True).clamp(min=1e-8) / 127
    return torch.round(weight.float() / scale).to(torch.int8), scale


def pack_state(state: dict[str, Tensor], exact: tuple[str, ...]) -> dict[str, Tensor]:
    """What is stored. exact: prefixes of names that stay half floats."""
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if compactable(value) and not name.startswith(exact):
            packed[name], packed[name + _SCALE] = rounded(value.detach())
        else:
            packed[name] = value.detach().half().contiguous() if value.is_floating_point() else value
    return packed


def unpack_state(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of pack_state, in float32."""
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in packed:
            continue  # belongs to another tensor; a tensor may have that name of its own
        scale = packed.get(name + _SCALE)
        if scale is not None:
            value = value.float() * scale
        state[name] = value.float() if value.is_floating_point() else value
    return state


def load_state(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.exists():
        raise EngineError(f"the weights are missing: {path}; reinstall emo-live")
    return unpack_state(load_file(str(path)))


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
