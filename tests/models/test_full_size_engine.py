"""The engine on a checkpoint of Hallo's real size and layout, all zeros: it loads and makes a frame, within its memory.

The files hold holes instead of zeros, so they take no room on the disk. In float32 weights are used where the file is
mapped; CPUs without instructions for half precision compute ten times slower in it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from emo_live.config import EmoConfig  # noqa: E402
from emo_live.models.checkpoints.hallo import HALLO  # noqa: E402
from emo_live.models.latent_emo import LatentEmo  # noqa: E402
from emo_live.weights.manifest import FORMAT, FileEntry, Manifest, Source, write_manifest  # noqa: E402

MOST_BYTES, MOST_S = 12_000_000_000, 400
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}

# Its own process, whose peak of memory is that of one engine.
RENDER = """
import sys
import numpy as np
from emo_live import hardware
from emo_live.avatar import Avatar
from emo_live.engine.backend_latent import LatentBackend
from emo_live.engine.latent_generator import LatentGenerator
from emo_live.engine.published import PublishedOptions, opened
from emo_live.engine.window import Controls, RollingWindow, WindowPolicy
from emo_live import samples

options = PublishedOptions("hallo", weights=sys.argv[1], dtype="float32", guidance=1.0, device="cpu")
backend = LatentBackend(opened(options), options, live=False, size_px=64)
avatar = Avatar.prepare(samples.portrait())
generator = LatentGenerator(backend, backend.prepare(avatar, 64), avatar, size=64, steps=1, controls=Controls())
window = RollingWindow(generator, WindowPolicy((1,)))
window.push(np.zeros(640, np.float32))
window.finish()
print(*[frame.video.shape for frame in window.frames()])
print(hardware.peak_rss_bytes())
"""


def write_holes(path: Path, shapes: Mapping[str, tuple[int, ...]], kind: str, ones: tuple[str, ...] = ()) -> None:
    """A safetensors file of zeros; kind: F16 or F32. ones: names of tensors that are not zero."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, item = 0, {"F16": 2, "F32": 4}[kind]
    for name, shape in shapes.items():
        end = at + math.prod(shape) * item
        table[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    one = {"F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f"}[kind]
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in ones:
            file.seek(8 + len(header) + table[name]["data_offsets"][0])
            file.write(one * math.prod(shapes[name]))
        file.truncate(8 + len(header) + at)


def shapes_of(make: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in make().state_dict().items()}


def full_size_folder(path: Path, config: EmoConfig) -> Path:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    write_holes(path / "emo.safetensors", shapes_of(lambda: LatentEmo(config)), "F32")
    sound, vae = path / "sound", path / "vae"
    wav2vec = Wav2Vec2Config()
    wav2vec.save_pretrained(sound)
    shapes = shapes_of(lambda: Wav2Vec2Model(wav2vec))
    # A direction needs a length.
    write_holes(sound / "model.safetensors", shapes, "F32", tuple(name for name in shapes if "weight.original" in name))
    vae.mkdir()
    (vae / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **VAE}))
    write_holes(vae / "diffusion_pytorch_model.safetensors", shapes_of(lambda: AutoencoderKL(**VAE)), "F32")
    files = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            source = (Source(None, None, file.name, "0" * 64),)
            entry = FileEntry("0" * 64, file.stat().st_size, source, "made for tests")
            files[file.relative_to(path).as_posix()] = entry
    write_manifest(path, Manifest(FORMAT, path.name, "hallo", config, files, ()))
    return path


@pytest.mark.slow
def test_hallo_at_its_real_size_makes_a_frame(tmp_path: Path) -> None:
    folder = full_size_folder(tmp_path / "hallo", HALLO)
    assert len(asdict(HALLO)) and (folder / "emo.safetensors").stat().st_size > 9_600_000_000
    run = subprocess.run(
        [sys.executable, "-c", RENDER, str(folder)], capture_output=True, text=True, timeout=MOST_S, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    shape, peak = run.stdout.splitlines()
    assert shape == "(64, 64, 3)" and int(peak) < MOST_BYTES, f"{int(peak) / 1e9:.1f} GB"
    print(f"peak {int(peak) / 1e9:.2f} GB")
