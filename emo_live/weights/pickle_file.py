"""Tensors out of torch's own files (.pth, .pt, .bin, .ckpt) without running anything that is in them.

These files are pickles, which can call any function. They are read with torch's restricted reader, which knows how to
build tensors and nothing else; whatever asks for more is refused. New files are zip archives, whose tensors stay on the
disk until they are used (mmap); files of the old kind have to fit into memory.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_live import hardware
from emo_live.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

# Where training scripts put the weights inside of what they save, the likeliest first.
_NESTS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module", "net", "generator", "ema")
_DEEPEST = 4
_ASKED_FOR = re.compile(r"GLOBAL ([\w.]{1,80})")
_ZIP = b"PK\x03\x04"


def load_pickle(path: Path) -> dict[str, Tensor]:
    """State dict of a file, taken out of what training scripts wrap around it. Raises BadInputError."""
    with path.open("rb") as stream:
        start = stream.read(4)
    is_zip = start == _ZIP
    if is_zip:
        _check_zip(path)
    elif not start.startswith(b"\x80"):
        raise BadInputError(f"'{path.name}' holds neither safetensors nor torch weights: {_seems(path)}")
    else:
        _check_memory(path)
    state = _state_of(_load(path, is_zip))
    if state is None:
        raise BadInputError(f"'{path.name}' holds no state dict (names and tensors): it is not a file of weights")
    return state


def _load(path: Path, is_zip: bool) -> Any:
    import torch

    try:
        with warnings.catch_warnings():  # it warns of pickles that are unusual; what they hold is checked here
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        asked = _ASKED_FOR.search(str(error))
        wants = f"it calls {asked.group(1)}" if asked else "it holds more than tensors"
        raise BadInputError(
            f"'{path.name}' was refused: {wants}, which weights do not need and which could run anything on this "
            "machine; nothing of it was run. Get the file from where it was published, or save its state dict alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, IndexError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadInputError(f"'{path.name}' is truncated or damaged ({reason}): get it again") from error


def _check_zip(path: Path) -> None:
    """Torch never compresses: an entry that is, or that ends behind the file, comes from somebody else."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        size_bytes = path.stat().st_size
        raise BadInputError(f"'{path.name}' is truncated or damaged ({size_bytes} bytes): get it again") from error
    if not any(info.filename.endswith("data.pkl") for info in infos):
        raise BadInputError(f"'{path.name}' is a zip archive, but no file of weights")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise BadInputError(f"'{path.name}' is compressed, which torch never does: get it from where it was published")


def _check_memory(path: Path) -> None:
    usable, size_bytes = hardware.memory().usable, path.stat().st_size
    if usable is not None and size_bytes > usable:
        raise BadInputError(
            f"'{path.name}' is of torch's old kind, which has to be read whole: {size_bytes / 1e9:.1f} GB, and "
            f"{usable / 1e9:.1f} GB of memory are free"
        )


def _state_of(value: Any, depth: int = 0) -> dict[str, Tensor] | None:
    import torch

    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return None
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    if tensors:
        return unwrapped(tensors)
    inner = (_state_of(value[name], depth + 1) for name in _NESTS if name in value)
    return next((state for state in inner if state), None)


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before every name: distributed training, torch.compile."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(name.startswith(prefix) for name in state):
            return unwrapped({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _seems(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(200).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs; run `git lfs pull` in its folder to get the file itself"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page; download the file itself"
    return "get the file from where it was published" if start else "it is empty; get it again"
