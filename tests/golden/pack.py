"""Makes tests/golden/data from the whole set of fixtures: python tests/golden/pack.py FOLDER.

Takes what the tests here read, thinned where that loses nothing: a wrong layer shows in all places. Hallo's weights,
which no compression makes smaller, are drawn again from their seed (drawn.py); packing proves it gives the same bits.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
import sys
from pathlib import Path

import torch
from drawn import SEEDS, draw, first_values
from safetensors.torch import load_file, save
from torch import Tensor

DATA = Path(__file__).parent / "data"

# Which tensors of which file: a pattern that the whole name must match.
WANTED = {
    "hallo/modules": ".*",
    "hallo/scheduler": ".*",
    "hallo/reference_unet": ".*",
    "hallo/denoising_unet": r"(?!act\.).*|act\.(temb|down_blocks\.2.*|down_blocks\.3|mid_block.*|up_blocks\.0)",
    "hallo/denoising_unet_variants": ".*",
    "hallo/pipeline_two_windows": ".*",
    "hallo/vae_tiny": ".*",
    "hallo/wav2vec2_tiny": ".*",
    "hallo/audio_wav2vec": ".*",
    "hallo/masks": ".*",
    "hallo/hallo2_extras": ".*",
    "echomimic/face_locator_tiny": ".*",
    "echomimic/face_locator": ".*",
    "echomimic/unet_forward": r"(?!nocfg\.act).*|nocfg\.act\.(down_blocks\.3|mid_block|up_blocks\.0)",
    "echomimic/pipeline_context": ".*",
    "echomimic/whisper_tiny_encoder": ".*",
    "echomimic/audio_whisper": r"(?!chunks\.).*",
}
# What is compared only, and large, loses most of its places: feature banks (rows, places, channels), rows of videos.
STRIDES = {r"(\w+\.)?bank\..*": (1, 16), r"(w\d|acc)\.video(_last2|_first_last)?": (-2, 8)}
FEW_PLACES = 16

# Literals are coded by their place in a 2-byte word: high bytes of random weights repeat, low ones do not.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 0}]


def thinned(name: str, tensor: Tensor) -> Tensor:
    for pattern, (axis, stride) in STRIDES.items():
        if re.fullmatch(pattern, name) and tensor.shape[axis] > FEW_PLACES:
            return tensor.index_select(axis, torch.arange(0, tensor.shape[axis], stride)).contiguous()
    return tensor


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content, format=lzma.FORMAT_XZ, filters=FILTERS))
    print(f"{path.relative_to(DATA)}: {path.stat().st_size} bytes")


def recognised(folder: Path, name: str) -> Tensor:
    """Weights that a seed gives bit for bit are not stored."""
    stored = load_file(folder / f"{name}.safetensors")
    order = [key for key in json.loads((folder / "keys_hallo.json").read_text())["keys"] if not key.endswith(".pe")]
    weights = draw(SEEDS[name], order, {key: value.shape for key, value in stored.items()})
    assert all(torch.equal(weights[key], stored[key]) for key in order), f"{name} is not what its seed gives"
    return first_values(weights)


def main(folder: Path) -> None:
    for part in ("hallo", "echomimic"):
        shutil.rmtree(DATA / part, ignore_errors=True)
    for name, pattern in WANTED.items():
        tensors = load_file(folder / f"{name}.safetensors")
        kept = {key: thinned(key, value) for key, value in tensors.items() if re.fullmatch(pattern, key)}
        write(DATA / f"{name}.safetensors.xz", save(kept))
    write(DATA / "drawn.safetensors.xz", save({name: recognised(folder, name) for name in SEEDS}))
    hallo = json.loads((folder / "keys_hallo.json").read_text())["keys"]
    files = json.loads((folder / "keys_echomimic.json").read_text())["files"]
    keys = {"net.pth": hallo, **{name: content["keys"] for name, content in files.items()}}
    write(DATA / "keys.json.xz", json.dumps(keys, separators=(",", ":")).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
