"""Checkpoints at their real sizes, made on the fly. Names and shapes cost nothing: tensors of one number, expanded."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from emo_live.models.checkpoints.echomimic import ECHOMIMIC, FILES
from emo_live.models.checkpoints.hallo import HALLO
from emo_live.weights.catalogue import CATALOGUE
from emo_live.weights.library_plans import plan_vae, plan_wav2vec
from emo_live.weights.origin import Origin
from emo_live.weights.plans import emo_shapes, plan_emo, plan_whisper, shapes_on_meta
from emo_live.weights.writing import size_bytes

KEYS = Path(__file__).parents[1] / "golden/data/keys.json.xz"
MOST_BYTES = 8_000_000_000
NET_BYTES = 4_850_000_000

# Its own process, whose peak of memory is that of one conversion.
CONVERT = """
import sys
from pathlib import Path
from emo_live import hardware
from emo_live.models.checkpoints.hallo import HALLO
from emo_live.weights.catalogue import CATALOGUE
from emo_live.weights.origin import Origin
from emo_live.weights.plans import plan_emo
from emo_live.weights.writing import write_tensors

source, target = Path(sys.argv[1]), Path(sys.argv[2])
plan = plan_emo("hallo", HALLO, {"net": Origin(source)}, None)
print(write_tensors(target, plan.tensors, lambda more: None))
print(hardware.peak_rss_bytes())
"""


class Sparse:
    """A file that holds blocks of zeros as holes, so that it takes no room on the disk."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) > 4096 and not any(view[:64]) and not any(view[-64:]):
            self.stream.seek(len(view), 1)
        else:
            self.stream.write(view)
        return len(view)

    def flush(self) -> None:
        self.stream.flush()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # pytest keeps what its last runs left, and this is much


def saved(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Origin:
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, path)
    return Origin(path)


def test_echomimic_and_whisper(tmp_path: Path) -> None:
    published = json.loads(lzma.decompress(KEYS.read_bytes()))
    lists = {Path(name.split(" ")[0]).stem: keys for name, keys in published.items()}
    files = {name: saved(tmp_path / f"{name}.pth", lists[name]) for name in FILES}
    whole = plan_emo("echomimic", ECHOMIMIC, files, None).tensors
    half = plan_emo("echomimic", ECHOMIMIC, files, "float16").tensors
    assert whole is not None and half is not None
    listed = CATALOGUE["echomimic"].parts["emo"].size_bytes
    assert size_bytes(whole) == pytest.approx(listed, rel=0.001)
    assert size_bytes(half) == pytest.approx(listed / 2, rel=0.001)
    text = plan_whisper(ECHOMIMIC, {"weights": saved(tmp_path / "tiny.pt", lists["whisper_tiny"])})[1].text
    assert json.loads(text or "") == {"mels": 80, "width": 384, "heads": 6, "layers": 4, "tokens": 1500}


def test_hallo_takes_as_much_room_as_the_list_says() -> None:
    values = sum(torch.Size(shape).numel() for shape in emo_shapes(HALLO).values())
    assert 2 * values == pytest.approx(CATALOGUE["hallo"].parts["emo"].size_bytes, rel=0.001)


@pytest.mark.slow
def test_parts_that_libraries_load(tmp_path: Path) -> None:
    """Configs as old as the published ones, weights with heads and names of their time."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    sound = {"model_type": "wav2vec2", "gradient_checkpointing": False, "transformers_version": "4.7.0.dev0"}
    new = shapes_on_meta(lambda: Wav2Vec2ForPreTraining(Wav2Vec2Config.from_dict(sound)))
    weight = "parametrizations.weight.original"
    old = {name.replace(f"{weight}0", "weight_g").replace(f"{weight}1", "weight_v"): new[name] for name in new}
    assert old.keys() != new.keys() and any(name.startswith("quantizer.") for name in old)
    (tmp_path / "sound.json").write_text(json.dumps(sound))
    files = {"config.json": Origin(tmp_path / "sound.json"), "weights": saved(tmp_path / "sound.bin", old)}
    assert len(plan_wav2vec(HALLO, files)[0].tensors or ()) == 211

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, **blocks}
    shapes = shapes_on_meta(lambda: AutoencoderKL(**vae))
    (tmp_path / "vae.json").write_text(json.dumps({**vae, "_diffusers_version": "0.4.2", "act_fn": "silu"}))
    files = {"config.json": Origin(tmp_path / "vae.json"), "weights": saved(tmp_path / "vae.bin", shapes)}
    assert len(plan_vae(HALLO, files)[0].tensors or ()) == 248


@pytest.mark.slow
def test_hallo_is_converted_in_bounded_memory(folder: Path) -> None:
    if shutil.disk_usage(folder).free < 2 * NET_BYTES:
        pytest.skip("the disk has no room for it")
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in emo_shapes(HALLO).items()}
    with (folder / "net.pth").open("wb") as stream:
        torch.save(state, Sparse(stream))
    assert (folder / "net.pth").stat().st_size > NET_BYTES
    del state
    arguments = [sys.executable, "-W", "error", "-c", CONVERT, folder / "net.pth", folder / "emo.safetensors"]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    digest, peak_bytes = run.stdout.split()
    assert (folder / "emo.safetensors").stat().st_size > NET_BYTES - 10_000_000
    assert len(digest) == 64 and int(peak_bytes) < MOST_BYTES
