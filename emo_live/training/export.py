"""Trained weights -> the files that ship: OpenVINO graphs for the CPU, safetensors for torch, a manifest with hashes.

The graphs are split where the window works: hear, prepare, denoise, motion, paint. Frames of a window are a dynamic
dimension.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.engine.tiny_graphs import GRAPHS, bank_inputs
from emo_live.models.attention import choose_kernel
from emo_live.models.audio import WhisperEncoder
from emo_live.models.autoencoder import Autoencoder
from emo_live.models.emo import Portrait, TinyEmo
from emo_live.models.gestures import Gestures
from emo_live.models.hearing import Hearing
from emo_live.models.weights import pack_state, part_of, unpack_state
from emo_live.training.compress import compress_weights
from emo_live.training.sound import KEPT

if TYPE_CHECKING:
    import openvino

Part = tuple[nn.Module, dict[str, Tensor]]  # a graph's module and its named example inputs
COMPRESSED = ("hear", "shapes", "prepare", "denoise")  # the decoders are small and their rounding would be seen ...
EXACT = ("autoencoder.flow", "autoencoder.mouth")  # ... so they are half floats in the weights file too
TRAINING_ONLY = "emo.shape_head"  # the audio tokens' head; that of `hearing` runs with the model
WINDOW_INPUTS = {
    "noisy",
    "anchor",
    "sound",
    "noise",
    "speed",
    "z",
    "warped",
    "motion",
}  # their first dimension follows T
FIXED_INPUTS = {"denoise": ("motion",), "gestures": ("speed",)}  # n motion frames always, one speed


class Hear(nn.Module):
    def __init__(self, whisper: WhisperEncoder):
        super().__init__()
        self.whisper = whisper

    def forward(self, mel: Tensor) -> Tensor:
        out: Tensor = self.whisper(mel)[:, -KEPT:]
        return out


class Shapes(nn.Module):
    """sound ((T + 2m) blocks, D) -> (T, S) mouth shapes."""

    def __init__(self, hearing: Hearing):
        super().__init__()
        self.hearing = hearing

    def forward(self, sound: Tensor) -> Tensor:
        out: Tensor = self.hearing(sound[None])[0]
        return out


class Draw(nn.Module):
    """noise (reach + T, N), speed (1,) -> (T, G) gestures."""

    def __init__(self, gestures: Gestures):
        super().__init__()
        self.gestures = gestures

    def forward(self, noise: Tensor, speed: Tensor) -> Tensor:
        out: Tensor = self.gestures(noise[None], speed)[0]
        return out


class Prepare(nn.Module):
    """portrait (1, 3, 512, 512), mouth (1, 3, 144, 144), mask (1, 4, 128, 128) -> what bank_inputs() names."""

    def __init__(self, emo: TinyEmo, autoencoder: Autoencoder):
        super().__init__()
        self.emo, self.autoencoder = emo, autoencoder

    def forward(self, portrait: Tensor, mouth: Tensor, mask: Tensor) -> dict[str, Tensor]:
        prepared = self.emo.prepare(F.avg_pool2d(portrait, 2), mask)
        face, inside = self.autoencoder.look(portrait, mouth)
        return {**flat(prepared), "face": face, "inside": inside}


class Denoise(nn.Module):
    """(T, C, h, w) noisy deviations, one timestep, motion frames, anchor, sound and speed around the window -> v."""

    def __init__(self, emo: TinyEmo):
        super().__init__()
        self.emo = emo

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        motion: Tensor,
        anchor: Tensor,
        sound: Tensor,
        speed: Tensor,
        *prepared: Tensor,
    ) -> Tensor:
        emo, portrait = self.emo, unflat(dict(zip(bank_inputs(), prepared, strict=True)))
        bank = emo.motion_bank(motion[None], portrait)
        v = emo.denoise(
            noisy[None],
            timestep.expand(1, noisy.shape[0]),
            portrait,
            bank,
            anchor[None],
            emo.audio_tokens(sound[None]),
            emo.speed_encoder(speed[None]),
        )
        return v[0]


def flat(portrait: Portrait) -> dict[str, Tensor]:
    masks = {
        f"mask{level}_{name}": m
        for level, row in enumerate(portrait.masks)
        for name, m in zip(("full", "face", "lip"), row, strict=True)
    }
    values = [portrait.code, portrait.locator, *masks.values(), *portrait.bank.values()]
    return dict(zip(bank_inputs(), values, strict=True))


def unflat(values: dict[str, Tensor]) -> Portrait:
    levels = len(TINY.emo.backbone.block_channels)
    masks = tuple((values[f"mask{i}_full"], values[f"mask{i}_face"], values[f"mask{i}_lip"]) for i in range(levels))
    bank = {name.removeprefix("bank:"): value for name, value in values.items() if name.startswith("bank:")}
    return Portrait(values["code"], bank, values["locator"], masks)


def example_inputs(emo: TinyEmo, autoencoder: Autoencoder, frames: int) -> dict[str, Part]:
    """Graph name -> (module, named example inputs of a window of `frames`)."""
    a, n = TINY.autoencoder, TINY.emo.motion_frames
    grid, side, quarter = a.latent_size, a.mouth_size, a.mouth_size // 4
    prepare = Prepare(emo, autoencoder)
    given = {
        "portrait": torch.zeros(1, 3, 512, 512),
        "mouth": torch.zeros(1, 3, side, side),
        "mask": torch.zeros(1, 4, 128, 128),
    }
    prepared: dict[str, Tensor] = prepare(**given)
    face, inside = prepared.pop("face"), prepared.pop("inside")
    m = TINY.emo.audio_projection.frames - 1
    latents = torch.zeros(frames, a.latent_channels, grid, grid)
    return {
        "prepare": (prepare, given),
        "denoise": (
            Denoise(emo),
            {
                "noisy": latents,
                "timestep": torch.tensor([999]),
                "motion": latents[:1].repeat(n, 1, 1, 1),
                "anchor": latents,
                "sound": torch.zeros((frames + m) * 2, TINY.whisper.width),
                "speed": torch.zeros(frames + m),
                **prepared,
            },
        ),
        "motion": (autoencoder.flow, {"z": latents, "reference": face}),
        "paint": (
            autoencoder.mouth,
            {
                "warped": torch.zeros(frames, 3, side, side),
                "motion": torch.zeros(frames, 3, quarter, quarter),
                "reference": inside,
            },
        ),
    }


@dataclass(frozen=True, slots=True)
class Trained:
    """The parts of the tiny model. prior: the motion prior's file."""

    emo: TinyEmo
    autoencoder: Autoencoder
    whisper: WhisperEncoder
    hearing: Hearing
    gestures: Gestures
    prior: Path

    def modules(self) -> dict[str, nn.Module]:
        """By their prefix in the weights file."""
        return {
            "emo.": self.emo,
            "autoencoder.": self.autoencoder,
            "whisper.": self.whisper,
            "hearing.": self.hearing,
            "gestures.": self.gestures,
        }


@torch.no_grad()
def write_model(trained: Trained, out: Path, facts: dict[str, Any]) -> None:
    """Writes GRAPHS as OpenVINO files, prior.npz, weights.safetensors and manifest.json into `out`. The weights of
    `trained` are rounded in place to what the files hold, so that all runtimes compute with the same ones."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        prefix + name: value
        for prefix, module in trained.modules().items()
        for name, value in module.state_dict().items()
        if not (prefix + name).startswith(TRAINING_ONLY)
    }
    packed = pack_state(state, EXACT)
    save_file(packed, out / "weights.safetensors")
    kept = unpack_state(packed)
    for prefix, module in trained.modules().items():
        module.load_state_dict(part_of(kept, prefix), strict=False)
    choose_kernel(trained.emo, "sdpa")  # one node of a graph; training on a CPU may have chosen another
    hear: Part = (Hear(trained.whisper), {"mel": torch.zeros(1, 80, 2 * TINY.whisper.tokens)})
    neighbours = TINY.emo.audio_projection.frames - 1
    sound = torch.zeros((6 + neighbours) * TINY.emo.audio_projection.blocks, TINY.whisper.width)
    shapes: Part = (Shapes(trained.hearing), {"sound": sound})
    noise = torch.zeros(TINY.gestures.reach + 6, TINY.gestures.noise)
    draw: Part = (Draw(trained.gestures), {"noise": noise, "speed": torch.zeros(1)})
    parts = {"hear": hear, "shapes": shapes, "gestures": draw, **example_inputs(trained.emo, trained.autoencoder, 6)}
    for name, part in parts.items():
        write_graph(name, part, out)
    shutil.copyfile(trained.prior, out / "prior.npz")
    files = [f"{name}.{end}" for name in GRAPHS for end in ("xml", "bin")] + ["prior.npz", "weights.safetensors"]
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files}
    manifest = {"model": TINY.emo.name, "format": 1, "config": asdict(TINY), "sha256": hashes, **facts}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def shorten_names(graph: openvino.Model) -> None:
    """Numbers in place of the tracer's long names; those of inputs and outputs stay."""
    kept = {port.any_name for port in (*graph.inputs, *graph.outputs) if port.get_names()}
    for number, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(str(number))
            for port in node.outputs():
                if not port.get_names() & kept:
                    port.get_tensor().set_names(set())


def write_graph(name: str, part: Part, out: Path) -> None:
    import openvino as ov

    module, inputs = part
    module = module.eval()
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    shapes = {
        key: ov.PartialShape([-1 if i == 0 and key in WINDOW_INPUTS else n for i, n in enumerate(value.shape)])
        for key, value in inputs.items()
    }
    for key in FIXED_INPUTS.get(name, ()):
        shapes[key] = ov.PartialShape(list(inputs[key].shape))
    graph = ov.convert_model(module, example_input=tuple(inputs.values()), input=[shapes[key] for key in inputs])
    for port, key in zip(graph.inputs, inputs, strict=True):
        port.get_tensor().set_names({key})
    if name == "prepare":
        for port, key in zip(graph.outputs, [*bank_inputs(), "face", "inside"], strict=True):
            port.get_tensor().set_names({key})
    if name in COMPRESSED:
        compress_weights(graph)
    shorten_names(graph)
    path = out / f"{name}.xml"
    ov.save_model(graph, path, compress_to_fp16=True)
    path.write_text("".join(line.strip() for line in path.read_text().splitlines()))  # a quarter is indentation
