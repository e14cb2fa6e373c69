"""One file of weights, safetensors or torch's own: names, shapes and dtypes at once, the tensors when they are asked
for. Raises BadInputError for anything that is no such file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from emo_live.errors import BadInputError
from emo_live.weights.pickle_file import load_pickle

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# What safetensors calls a dtype -> what torch calls it; files with others hold no weights that we read.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor that is still in its file. dtype: torch's name of it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


def open_tensors(path: Path) -> dict[str, Lazy]:
    """Name -> tensor still in the file. Raises BadInputError."""
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise BadInputError(f"'{path}' cannot be read ({error.strerror}): give another file") from error
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < _MOST_HEADER_BYTES:
        return _from_safetensors(path)
    return lazily(load_pickle(path))


def lazily(state: Mapping[str, Tensor]) -> dict[str, Lazy]:
    def reading(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor

    return {name: Lazy(tuple(value.shape), dtype_name(value.dtype), reading(value)) for name, value in state.items()}


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _from_safetensors(path: Path) -> dict[str, Lazy]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(str(path), framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInputError(f"'{path.name}' is truncated or damaged ({error}): get it again") from error

    def reading(name: str) -> Callable[[], Tensor]:
        return lambda: cast("Tensor", file.get_tensor(name))

    return {
        name: Lazy(tuple(part.get_shape()), DTYPES.get(part.get_dtype(), part.get_dtype()), reading(name))
        for name, part in slices.items()
    }
