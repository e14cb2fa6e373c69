"""What every file of a model folder will hold, found out and checked before a byte is written.

A plan keeps the tensors in their files: names, shapes and dtypes are compared with the networks that will load them,
values only while they are written. Torch's meta device gives the networks' shapes without memory for weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from emo_live.config import EmoConfig
from emo_live.errors import BadInputError
from emo_live.weights.catalogue import Part
from emo_live.weights.keys import check_keys, shapes_of
from emo_live.weights.origin import Origin
from emo_live.weights.tensor_file import DTYPES, Lazy, lazily, open_tensors

if TYPE_CHECKING:
    from torch import nn

_PE = ".pos_encoder.pe"
_DOUBLE = "float64"


@dataclass(frozen=True, slots=True)
class Plan:
    """One file to write: its path in the folder, and tensors or text."""

    part: Part
    name: str
    origins: tuple[Origin, ...]
    tensors: Mapping[str, Lazy] | None = None
    text: str | None = None
    notes: tuple[str, ...] = ()


def shapes_on_meta(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's state dict, without memory for it."""
    import torch

    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build().state_dict().items()}


@cache
def emo_shapes(config: EmoConfig) -> dict[str, tuple[int, ...]]:
    from emo_live.models.latent_emo import LatentEmo

    try:
        return shapes_on_meta(lambda: LatentEmo(config))
    except (ValueError, RuntimeError, AssertionError, ZeroDivisionError, OverflowError) as error:
        raise BadInputError(f"no network can be built from the config: {' '.join(str(error).split())[:120]}") from error


def plan_emo(what: str, config: EmoConfig, files: Mapping[str, Origin], dtype: str | None) -> Plan:
    """files: "net" alone, or EchoMimic's four by the names of FILES. dtype: None keeps that of each tensor."""
    from emo_live.models.checkpoints.echomimic import FILES

    expected = emo_shapes(config)
    if "net" in files:
        tensors = dict(open_tensors(files["net"].path))
        notes = _fill_position_codes(tensors, expected, config)
        check_keys(files["net"].path.name, what, expected, shapes_of(tensors))
    else:
        tensors, notes = {}, []
        for part, prefix in FILES.items():
            own = {name: shape for name, shape in expected.items() if _belongs(name, part, prefix)}
            found = {prefix + name: tensor for name, tensor in open_tensors(files[part].path).items()}
            if part == "denoising_unet":  # old training dumps repeat the motion module here; the newer one wins
                own |= {name: expected[name] for name in found if name in tensors}
            notes += _fill_position_codes(found, own, config)
            bare = {name.removeprefix(prefix): tensor.shape for name, tensor in found.items()}
            check_keys(files[part].path.name, f"{part} of {what}", own, shapes_of(found), seen=bare)
            tensors |= found
    typed, changed = with_dtype(files_named(files), tensors, dtype)
    return Plan("emo", "emo.safetensors", tuple(files.values()), typed, notes=(*notes, *changed))


def files_named(files: Mapping[str, Origin]) -> str:
    return ", ".join(origin.path.name for origin in files.values())


def _belongs(name: str, part: str, prefix: str) -> bool:
    """Whether EchoMimic keeps a tensor of LatentEmo in this of its files."""
    motion = ".motion_modules." in name
    return name.startswith(prefix) and (part == "motion_module") == (motion and prefix == "denoising_unet.")


def _fill_position_codes(
    tensors: dict[str, Lazy], expected: Mapping[str, tuple[int, ...]], config: EmoConfig
) -> list[str]:
    """Position codes are computed, not learnt, so a file may lack them; others of its tensors it may not."""
    absent = [name for name in expected if name.endswith(_PE) and name not in tensors]
    if not absent or not any(name in tensors for name in expected):
        return []
    from emo_live.models.temporal import PositionCodes

    for name in absent:
        _, frames, width = expected[name]
        tensors |= lazily({name: PositionCodes(width, frames).pe})
    return [f"{len(absent)} position codes were not in the file and were computed."]


def with_dtype(file: str, tensors: Mapping[str, Lazy], dtype: str | None) -> tuple[dict[str, Lazy], list[str]]:
    """Tensors with the dtype they will be written in. float64 becomes float32; integers are no weights."""
    wrong = [(name, tensor.dtype) for name, tensor in tensors.items() if tensor.dtype not in DTYPES.values()]
    if wrong:
        raise BadInputError(
            f"'{file}' cannot be used: {len(wrong)} of its tensors are no floating point weights "
            f"({wrong[0][0]} is {wrong[0][1]}); get the file that was published, not a quantised one"
        )
    notes = []
    if dtype is None and (doubles := sum(tensor.dtype == _DOUBLE for tensor in tensors.values())):
        notes.append(f"{doubles} tensors were float64 and were written as float32.")
    # Position codes stay exact: they are few, and float16 would move late frames.
    typed = {name: replace(tensor, dtype=_target(name, tensor.dtype, dtype)) for name, tensor in tensors.items()}
    if dtype is not None and any(typed[name].dtype != tensors[name].dtype for name in tensors):
        notes.append(f"Weights were converted to {dtype}.")
    return typed, notes


def _target(name: str, published: str, wanted: str | None) -> str:
    kept = "float32" if published == _DOUBLE else published
    return kept if wanted is None or name.endswith(_PE) else wanted


def plan_whisper(config: EmoConfig, files: Mapping[str, Origin]) -> list[Plan]:
    """whisper_tiny.pt, or another file with OpenAI's names -> the encoder's tensors that we use, and its sizes."""
    from emo_live.config import WhisperConfig
    from emo_live.models.audio import WhisperEncoder

    origin = files["weights"]
    found = open_tensors(origin.path)
    projection = config.audio_projection
    encoder = {name: tensor for name, tensor in found.items() if name.startswith("encoder.")}
    first, positions = encoder.get("encoder.conv1.weight"), encoder.get("encoder.positional_embedding")
    layers = len({name.split(".")[2] for name in encoder if name.startswith("encoder.blocks.")})
    if first is None or positions is None or len(first.shape) != 3 or len(positions.shape) != 2 or not layers:
        check_keys(origin.path.name, "whisper's encoder", {"encoder.conv1.weight": ()}, {}, seen=shapes_of(found))
        raise AssertionError("unreachable: names were missing")
    # A frame has two steps of 20 ms, and of each the embedding and every layer's output.
    if projection.width != first.shape[0] or projection.blocks != 2 * (layers + 1):
        raise BadInputError(
            f"'{origin.path.name}' is a whisper of another size (width {first.shape[0]}, {layers} layers): the model "
            f"needs width {projection.width} and {projection.blocks // 2 - 1} layers, as whisper tiny has"
        )
    heads = max(1, first.shape[0] // 64)  # in every published size
    sizes = WhisperConfig(first.shape[1], first.shape[0], heads, layers, positions.shape[0])
    expected = shapes_on_meta(lambda: WhisperEncoder(sizes))
    short = {name.removeprefix("encoder.").replace(".attn.", "."): name for name in encoder}
    used = {name: encoder[long] for name, long in short.items() if not name.startswith("ln_post.")}
    check_keys(origin.path.name, "whisper's encoder", expected, shapes_of(used), seen=shapes_of(found))
    typed, notes = with_dtype(origin.path.name, {short[name]: tensor for name, tensor in used.items()}, None)
    return [
        Plan("sound", "sound/encoder.safetensors", (origin,), typed, notes=tuple(notes)),
        Plan("sound", "sound/config.json", (origin,), text=json.dumps(asdict(sizes), indent=2)),
    ]
