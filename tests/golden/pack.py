"""Makes tests/golden/data from the whole set of fixtures: python tests/golden/pack.py FOLDER.

Takes what the tests here read. Feature banks with many places keep every 16th: a wrong layer shows in all of them.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

DATA = Path(__file__).parent / "data"

# Which tensors of which file: a pattern that the whole name must match.
WANTED = {
    "hallo/net_tiny": ".*",
    "hallo/modules": ".*",
    "hallo/scheduler": ".*",
    "hallo/reference_unet": ".*",
    "hallo/denoising_unet": r"(?!act\.).*|act\.(temb|down_blocks\.2.*|down_blocks\.3|mid_block.*|up_blocks\.0)",
    "hallo/denoising_unet_variants": r"published\.(?!cfg\.bank_fp16).*|eval\.cfg",
    "hallo/pipeline_two_windows": r"noise_w.|timesteps|motion_scale|guidance_scale|pipe_.*|face_emb|face_region|"
    r"w.\.(ref_latents|audio_tokens|latents_step.)",
    "echomimic/face_locator_tiny": ".*",
    "echomimic/face_locator": ".*",
    "echomimic/unet_forward": r"(?!nocfg\.(act|bank_fp16)).*|nocfg\.act\.(down_blocks\.3|mid_block|up_blocks\.0)",
    "echomimic/whisper_tiny_encoder": ".*",
    "echomimic/audio_whisper": "log_mel|feature",
}
STRIDED = re.compile(r"(\w+\.)?bank\..*")  # (rows, places, channels)
STRIDE, FEW_PLACES = 16, 16

# Literals are coded by their place in a 2-byte word: high bytes of random weights repeat, low ones do not.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 0}]


def thinned(name: str, tensor: Tensor) -> Tensor:
    if STRIDED.fullmatch(name) and tensor.shape[1] > FEW_PLACES:
        return tensor[:, ::STRIDE].contiguous()
    return tensor


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content, format=lzma.FORMAT_XZ, filters=FILTERS))
    print(f"{path.relative_to(DATA)}: {path.stat().st_size} bytes")


def main(folder: Path) -> None:
    for part in ("hallo", "echomimic"):
        shutil.rmtree(DATA / part, ignore_errors=True)
    for name, pattern in WANTED.items():
        tensors = load_file(folder / f"{name}.safetensors")
        kept = {key: thinned(key, value) for key, value in tensors.items() if re.fullmatch(pattern, key)}
        write(DATA / f"{name}.safetensors.xz", save(kept))
    hallo = json.loads((folder / "keys_hallo.json").read_text())["keys"]
    files = json.loads((folder / "keys_echomimic.json").read_text())["files"]
    keys = {"net.pth": hallo, **{name: content["keys"] for name, content in files.items()}}
    write(DATA / "keys.json.xz", json.dumps(keys, separators=(",", ":")).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
