"""Conversion makes a complete model folder, or none."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini_checkpoint as mini
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from emo_live.errors import BadInputError
from emo_live.weights import convert as converting
from emo_live.weights import open_model
from emo_live.weights.catalogue import CATALOGUE
from emo_live.weights.convert import convert
from emo_live.weights.local import find_origins
from emo_live.weights.origin import sha256
from emo_live.weights.verify import verify

Run = Callable[..., tuple[int, str, str]]
State = dict[str, Tensor]
MINI = mini.MINI_CONFIGS


def same(path: Path, state: State) -> None:
    found = load_file(path)
    assert set(found) == set(state)
    assert [name for name, value in state.items() if not torch.equal(found[name], value)] == []


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def test_a_copy_of_the_published_repository(
    hallo_copy: Path, states: dict[str, State], weights: Run, root: Path
) -> None:
    code, out, err = weights("convert", "hallo", hallo_copy)
    assert code == 0, err
    assert str(root / "hallo") in out and "OpenRAIL" in out
    model = open_model("hallo", root)
    assert (model.name, model.model, model.config) == ("hallo", "hallo", MINI["hallo"])
    same(model.emo, states["hallo"])
    verify(model)
    manifest = json.loads((model.path / "manifest.json").read_text())
    entry = manifest["files"]["emo.safetensors"]
    assert entry["sha256"] == sha256(model.emo) and entry["licence"] == "MIT"
    assert entry["source"] == [
        {"repo": None, "revision": None, "file": "net.pth", "sha256": sha256(hallo_copy / "hallo/net.pth")}
    ]
    assert str(hallo_copy) not in json.dumps(manifest)  # a user's folders are nobody's business
    assert left(root) == ["hallo"]


def test_libraries_load_what_was_converted(hallo_copy: Path, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from transformers import Wav2Vec2Model

    from emo_live.models.latent_emo import LatentEmo

    published = CATALOGUE["hallo"]
    model = convert(published, find_origins(published, [hallo_copy]), tmp_path / "hallo", config=MINI["hallo"])
    LatentEmo(model.config).load_state_dict(load_file(model.emo))
    assert model.taesd is not None
    libraries: tuple[tuple[Any, Path], ...] = (
        (Wav2Vec2Model, model.sound),
        (AutoencoderKL, model.vae),
        (AutoencoderTiny, model.taesd),
    )
    for library, folder in libraries:
        _, report = library.from_pretrained(folder, output_loading_info=True)
        assert [name for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[name]] == []


def test_single_files(quick_copy: Path, weights: Run, root: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "my download (1).pth"
    renamed.symlink_to(quick_copy / "hallo/net.pth")
    parts = ("--sound", quick_copy / "wav2vec/wav2vec2-base-960h", "--vae", quick_copy / "sd-vae-ft-mse")
    code, out, _ = weights("convert", "hallo2", renamed, *parts, "--name", "mine", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "mine"
    model = open_model("mine", root)
    assert (model.name, model.model, model.taesd) == ("mine", "hallo2", None)


def test_echomimic(echomimic_copy: Path, states: dict[str, State], weights: Run, root: Path) -> None:
    code, _, err = weights("convert", "echomimic", echomimic_copy)
    assert code == 0, err
    model = open_model("echomimic", root)
    same(model.emo, states["echomimic"])
    same(model.sound / "encoder.safetensors", mini.whisper_state())
    assert json.loads((model.sound / "config.json").read_text()) == {
        "mels": 80,
        "width": mini.WIDTH,
        "heads": 1,  # every published whisper has heads of 64
        "layers": 4,
        "tokens": 1500,
    }
    sources = json.loads((model.path / "manifest.json").read_text())["files"]["emo.safetensors"]["source"]
    assert {source["file"] for source in sources} == {
        f"{name}.pth" for name in ("reference_unet", "motion_module", "denoising_unet", "face_locator")
    }
    assert weights("verify", "echomimic")[0] == 0


def test_accelerated_echomimic_takes_its_own_files(
    echomimic_copy: Path, echomimic_files: dict[str, State], weights: Run, root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(echomimic_copy, copy)
    code, _, err = weights("convert", "echomimic-acc", copy)
    assert code == 2
    assert "denoising_unet_acc.pth, motion_module_acc.pth" in err and not root.exists()
    for part in ("denoising_unet", "motion_module"):
        faster = {name: value * 2 for name, value in echomimic_files[part].items()}
        torch.save(faster, copy / f"{part}_acc.pth")
    assert weights("convert", "echomimic-acc", copy)[0] == 0
    found = load_file(open_model("echomimic-acc", root).emo)
    name = "conv_in.weight"
    assert torch.equal(found[f"denoising_unet.{name}"], echomimic_files["denoising_unet"][name] * 2)
    assert torch.equal(found[f"reference_unet.{name}"], echomimic_files["reference_unet"][name])


def test_joyhallo_is_a_subset_of_hallo(
    quick_copy: Path, states: dict[str, State], weights: Run, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "joyhallo").mkdir()
    torch.save(states["joyhallo"], tmp_path / "joyhallo/net.pth")
    # its wav2vec2 is published as a pickle with heads of training, under the old names of weight normalisation
    sound = tmp_path / "chinese-wav2vec2-base"
    shutil.copytree(quick_copy / "wav2vec/wav2vec2-base-960h", sound)
    new = load_file(sound / "model.safetensors")
    old = {f"wav2vec2.{_old_name(name)}": value for name, value in new.items()}
    torch.save(
        {**old, "quantizer.codevectors": torch.zeros(3), "project_q.bias": torch.zeros(3)}, sound / "pytorch_model.bin"
    )
    (sound / "model.safetensors").unlink()
    parts = ("--sound", sound, "--vae", quick_copy / "sd-vae-ft-mse")
    code, _, err = weights("convert", "joyhallo", tmp_path, *parts)
    assert code == 0, err
    model = open_model("joyhallo", root)
    same(model.emo, states["joyhallo"])
    same(model.sound / "model.safetensors", new)


def _old_name(name: str) -> str:
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def test_old_names_in_the_vae(quick_copy: Path, tmp_path: Path) -> None:
    """The published VAE is older than today's names of attention."""
    from emo_live.weights.library_plans import plan_vae
    from emo_live.weights.origin import Origin

    state = load_file(quick_copy / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors")
    pairs = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    for new, old in pairs:
        state = {name.replace(f".{new}.", f".{old}."): value for name, value in state.items()}
    assert any(".proj_attn." in name for name in state)
    torch.save(state, tmp_path / "old.bin")
    files = {"config.json": Origin(quick_copy / "sd-vae-ft-mse/config.json"), "weights": Origin(tmp_path / "old.bin")}
    tensors = plan_vae(MINI["hallo"], files)[0].tensors
    assert tensors is not None and not any(".proj_attn." in name for name in tensors)


def test_dtype(quick_copy: Path, states: dict[str, State], weights: Run, root: Path) -> None:
    assert weights("convert", "hallo", quick_copy, "--dtype", "bfloat16")[0] == 0
    model = open_model("hallo", root)
    found = load_file(model.emo)
    pe = {name for name in found if name.endswith(".pe")}
    assert {found[name].dtype for name in pe} == {torch.float32}  # exact, whatever the rest is
    assert {found[name].dtype for name in set(found) - pe} == {torch.bfloat16}
    name = "denoising_unet.conv_in.weight"
    assert torch.equal(found[name], states["hallo"][name].bfloat16())
    assert "converted to bfloat16" in (model.path / "manifest.json").read_text()


def test_an_existing_model_is_kept_unless_told(quick_copy: Path, weights: Run, root: Path) -> None:
    assert weights("convert", "hallo", quick_copy)[0] == 0
    before = (root / "hallo/manifest.json").read_text()
    code, _, err = weights("convert", "hallo", quick_copy)
    assert code == 2 and "--overwrite" in err
    assert (root / "hallo/manifest.json").read_text() == before
    assert weights("convert", "hallo", quick_copy, "--dtype", "float16", "--overwrite")[0] == 0
    assert left(root) == ["hallo"]


class Full:
    """Writes some tensors, then fails."""

    def __init__(self, error: BaseException):
        self.error, self.files = error, 0
        self.write = converting.write_tensors

    def __call__(self, path: Path, *arguments: Any) -> str:
        self.files += 1
        if self.files == 3:
            path.write_bytes(b"half a file")
            raise self.error
        return self.write(path, *arguments)


@pytest.mark.parametrize("replacing", [False, True])
def test_a_full_disk_leaves_nothing(
    quick_copy: Path, weights: Run, root: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    if replacing:
        assert weights("convert", "hallo", quick_copy)[0] == 0
    full = Full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(converting, "write_tensors", full)
    code, _, err = weights("convert", "hallo", quick_copy, "--overwrite")
    assert full.files == 3
    assert code == 2 and "No space left" in err and err.count("\n") == 1
    assert left(root) == (["hallo"] if replacing else [])
    if replacing:
        verify(open_model("hallo", root))


def test_ctrl_c_leaves_nothing(quick_copy: Path, weights: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "write_tensors", Full(KeyboardInterrupt()))
    assert weights("convert", "hallo", quick_copy)[0] == 130
    assert left(root) == []


def test_leftovers_of_a_killed_conversion_go(quick_copy: Path, weights: Run, root: Path) -> None:
    dead, alive = root / ".hallo.99999999.ab.part", root / f".hallo.{os.getppid()}.ab.part"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "emo.safetensors").write_bytes(b"half")
    assert weights("convert", "hallo", quick_copy)[0] == 0
    assert left(root) == [alive.name, "hallo"]


def test_too_small_a_disk_is_said_before_anything(
    quick_copy: Path, weights: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, _, err = weights("convert", "hallo", quick_copy)
    assert code == 2 and "0.1 GB are needed" in err and "0.0 GB are free" in err
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("convert", "hallo3", "x"), "choose one of hallo, hallo2"),
        (("convert", "hallo", "missing.pth"), "does not exist"),
        (("convert", "hallo", "{copy}", "--name", "../evil"), "not the name of a model"),
        (("convert", "hallo", "{copy}", "--name", "two words"), "not the name of a model"),
        (("convert", "hallo", "{copy}/hallo/net.pth"), "wav2vec2 was not found: give it with --sound"),
        (("convert", "hallo", "{copy}/taesd"), "not found: net.pth"),
        (("convert", "hallo", "{copy}", "--vae", "{copy}/hallo"), "lacks config.json"),
        (("convert", "hallo", "{copy}", "--vae", "{copy}/hallo/net.pth"), "is a file: give the folder"),
        (("convert", "hallo", "{copy}", "--dtype", "int8"), "--dtype"),
    ],
)
def test_wrong_arguments(quick_copy: Path, weights: Run, root: Path, arguments: tuple[str, ...], expected: str) -> None:
    code, _, err = weights(*(part.format(copy=quick_copy) for part in arguments))
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err
    assert not root.exists()


def test_the_extra_is_named_where_it_is_missing(
    quick_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo_live.errors import NotSupportedError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    published = CATALOGUE["hallo"]
    with pytest.raises(NotSupportedError, match=r'pip install "emo-live\[gpu\]"'):
        convert(published, find_origins(published, [quick_copy]), tmp_path / "hallo")


def test_target_that_is_a_file(quick_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "hallo").write_text("mine")
    published = CATALOGUE["hallo"]
    with pytest.raises(BadInputError, match="is a file"):
        convert(published, find_origins(published, [quick_copy]), tmp_path / "hallo", overwrite=True)
