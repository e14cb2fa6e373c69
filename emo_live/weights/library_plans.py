"""Plans for the parts that libraries load: wav2vec2 (transformers), the VAE and TAESD (diffusers).

Old names in published files become today's, so that every release of the libraries loads the result. A config is data
here: it may only describe the very kind of network that the model needs.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from emo_live.config import EmoConfig
from emo_live.errors import BadInputError
from emo_live.weights.catalogue import Part
from emo_live.weights.keys import check_keys, shapes_of
from emo_live.weights.origin import Origin
from emo_live.weights.plans import Plan, shapes_on_meta, with_dtype
from emo_live.weights.tensor_file import Lazy, lazily, open_tensors

if TYPE_CHECKING:
    from torch import nn

_MOST_CONFIG_BYTES = 100_000
_LATENT_SCALE = 0.18215  # of Stable Diffusion 1.x; XL's VAE has the same tensors and another scale
_DOWNSCALES = 4  # entries of block_out_channels: three halvings, 8 px a latent
_MOST_LAYERS = 8

# Old names of weight normalisation and of the VAE's attention -> today's.
_WAV2VEC_NAMES = (
    ("pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    ("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
)
_VAE_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
# What wav2vec2 was trained with on top; only the encoder is used.
_HEADS = ("lm_head.", "quantizer.", "project_hid.", "project_q.", "dropout_features.")
_MASK = "masked_spec_embed"  # stands for what training hides


def plan_wav2vec(config: EmoConfig, files: Mapping[str, Origin]) -> list[Plan]:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    told = _read_config(files["config.json"])
    projection = config.audio_projection
    wanted = {"model_type": "wav2vec2", "hidden_size": projection.width, "num_hidden_layers": projection.blocks}
    _check_config(files["config.json"], told, wanted, "wav2vec2")
    found = open_tensors(files["weights"].path)
    tensors = {}
    for name, tensor in found.items():
        short = _renamed(name.removeprefix("wav2vec2."), _WAV2VEC_NAMES)
        if not short.startswith(_HEADS):
            tensors[short] = tensor
    expected = _shapes(files["config.json"], lambda: Wav2Vec2Model(Wav2Vec2Config.from_dict(told)))
    if _MASK in expected and _MASK not in tensors and len(tensors) > 1:
        tensors |= _zeros(_MASK, expected[_MASK])
    if _MASK not in expected:
        tensors.pop(_MASK, None)
    check_keys(files["weights"].path.name, "wav2vec2", expected, shapes_of(tensors), seen=shapes_of(found))
    return _plans("sound", "model.safetensors", told, files, tensors)


def plan_vae(config: EmoConfig, files: Mapping[str, Origin]) -> list[Plan]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    told = _read_config(files["config.json"])
    _check_diffusers(files["config.json"], told, config, "AutoencoderKL", "block_out_channels")
    scale = told.get("scaling_factor", _LATENT_SCALE)
    if type(scale) not in (int, float) or not math.isclose(scale, _LATENT_SCALE, rel_tol=1e-3):
        raise BadInputError(
            f"'{files['config.json'].path}' is of a VAE with scaling factor {str(scale)[:20]}, the model needs that of "
            f"Stable Diffusion 1.x ({_LATENT_SCALE}), such as sd-vae-ft-mse"
        )
    expected = _shapes(files["config.json"], lambda: AutoencoderKL(**_arguments(AutoencoderKL, told)))
    found = open_tensors(files["weights"].path)
    tensors = {_renamed(name, _VAE_NAMES): tensor for name, tensor in found.items()}
    check_keys(files["weights"].path.name, "the VAE", expected, shapes_of(tensors), seen=shapes_of(found))
    return _plans("vae", "diffusion_pytorch_model.safetensors", told, files, tensors)


def plan_taesd(config: EmoConfig, files: Mapping[str, Origin]) -> list[Plan]:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    told = _read_config(files["config.json"])
    _check_diffusers(files["config.json"], told, config, "AutoencoderTiny", "encoder_block_out_channels")
    expected = _shapes(files["config.json"], lambda: AutoencoderTiny(**_arguments(AutoencoderTiny, told)))
    tensors = open_tensors(files["weights"].path)
    check_keys(files["weights"].path.name, "TAESD", expected, shapes_of(tensors))
    return _plans("taesd", "diffusion_pytorch_model.safetensors", told, files, tensors)


def _read_config(origin: Origin) -> dict[str, Any]:
    try:
        data = origin.path.read_bytes()[: _MOST_CONFIG_BYTES + 1]
        told = json.loads(data.decode("utf-8"))
    except OSError as error:
        raise BadInputError(f"'{origin.path}' cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"'{origin.path}' is no JSON: get it from where the weights were published") from error
    if len(data) > _MOST_CONFIG_BYTES or not isinstance(told, dict):
        raise BadInputError(f"'{origin.path}' is not the config of a network")
    # Names of code to load, and of the machine that it was saved on.
    return {name: value for name, value in told.items() if name not in ("auto_map", "_name_or_path")}


def _check_config(origin: Origin, told: Mapping[str, Any], wanted: Mapping[str, object], what: str) -> None:
    for name, value in wanted.items():
        if told.get(name, value) != value:
            raise BadInputError(
                f"'{origin.path}' is not the config of the {what} that the model needs: {name} is "
                f"{str(told[name])[:40]}, not {value}"
            )


def _check_diffusers(origin: Origin, told: Mapping[str, Any], config: EmoConfig, kind: str, channels: str) -> None:
    wanted = {"_class_name": kind, "latent_channels": config.backbone.in_channels, "in_channels": 3, "out_channels": 3}
    _check_config(origin, told, wanted, kind)
    blocks, layers = told.get(channels), told.get("layers_per_block", 1)
    if not isinstance(blocks, list) or len(blocks) != _DOWNSCALES:
        raise BadInputError(f"'{origin.path}' is of a {kind} that does not turn 8 x 8 px into one latent")
    if type(layers) is not int or not 1 <= layers <= _MOST_LAYERS:
        raise BadInputError(f"'{origin.path}' has an odd number of layers: {str(layers)[:20]}")


def _arguments(kind: type, told: Mapping[str, Any]) -> dict[str, Any]:
    """What the class knows of a config; the library warns of everything else, which newer and older releases have."""
    known = inspect.signature(kind).parameters
    return {name: value for name, value in told.items() if name in known}


def _shapes(origin: Origin, build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    try:
        return shapes_on_meta(build)
    except Exception as error:  # libraries raise anything when a config makes no sense
        reason = " ".join(str(error).split())[:120]
        raise BadInputError(f"no network can be built from '{origin.path}': {reason}") from error


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for old, new in names:
        name = name.replace(old, new)
    return name


def _zeros(name: str, shape: tuple[int, ...]) -> dict[str, Lazy]:
    import torch

    return lazily({name: torch.zeros(shape)})


def _plans(
    part: Part, name: str, told: Mapping[str, Any], files: Mapping[str, Origin], tensors: Mapping[str, Lazy]
) -> list[Plan]:
    weights, config = files["weights"], files["config.json"]
    typed, notes = with_dtype(weights.path.name, tensors, None)
    return [
        Plan(part, f"{part}/{name}", (weights,), typed, notes=tuple(notes)),
        Plan(part, f"{part}/config.json", (config,), text=json.dumps(told, indent=2)),
    ]
