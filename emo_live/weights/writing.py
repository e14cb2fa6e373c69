"""Writes safetensors files tensor by tensor, so that memory holds one tensor and never a second copy of a model.

The safetensors library writes what is in memory already. Here dtypes are converted, values are looked at and the sum is
computed on the way, in the one pass over gigabytes. Format: 8 bytes with the length of a JSON header, the header, which
says where every tensor lies, and the tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from emo_live.errors import BadInputError
from emo_live.weights.tensor_file import DTYPES, Lazy

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {torch_name: name for name, torch_name in DTYPES.items()}
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_BLOCK_BYTES = 1 << 24

Written = Callable[[int], None]  # how many more bytes are in the file


def size_bytes(tensors: Mapping[str, Lazy]) -> int:
    return sum(math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype] for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Lazy], written: Written) -> str:
    """tensors: dtype is that of the file, whatever `read` gives. Returns the sha256 of the file.

    Raises BadInputError for values that are not finite, or do not fit the dtype; OSError where the disk is full.
    """
    # The library's own order: wide dtypes first keeps every tensor aligned.
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    header = _header(names, tensors)
    digest = hashlib.sha256(header)
    with path.open("xb") as stream:
        stream.write(header)
        for name in names:
            data = memoryview(_bytes_of(name, tensors[name])).cast("B")
            for start in range(0, len(data), _BLOCK_BYTES):
                block = data[start : start + _BLOCK_BYTES]
                stream.write(block)
                digest.update(block)
                written(len(block))
    return digest.hexdigest()


def _header(names: list[str], tensors: Mapping[str, Lazy]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        tensor = tensors[name]
        end = at + math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(name: str, tensor: Lazy) -> memoryview:
    import torch

    value: Tensor = tensor.read()
    if not value.numel():
        return memoryview(b"")
    if not _finite(value):
        raise BadInputError(f"tensor {name} holds values that are no numbers (NaN or infinite): get the file again")
    converted = value.to(getattr(torch, tensor.dtype))
    if converted.dtype != value.dtype and not _finite(converted):
        raise BadInputError(f"tensor {name} has values too large for {tensor.dtype}: convert with --dtype bfloat16")
    flat = converted.contiguous().reshape(-1)
    return memoryview(cast("Any", flat.view(torch.uint8).numpy()))


def _finite(value: Tensor) -> bool:
    """aminmax keeps NaN, and is an order of magnitude faster than isfinite on half floats."""
    import torch

    low, high = torch.aminmax(value)
    return math.isfinite(float(low)) and math.isfinite(float(high))
