"""Files that are malicious, damaged, swapped or of the wrong kind: refused, with the reason in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import mini_checkpoint as mini
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emo_live import hardware
from emo_live.errors import BadInputError
from emo_live.weights.library_plans import plan_taesd, plan_vae, plan_wav2vec
from emo_live.weights.origin import Origin
from emo_live.weights.plans import Plan, plan_emo, plan_whisper
from emo_live.weights.tensor_file import lazily, open_tensors
from emo_live.weights.writing import write_tensors

State = dict[str, Tensor]
HALLO = mini.MINI_CONFIGS["hallo"]


def plan(path: Path, dtype: str | None = None) -> Plan:
    return plan_emo("hallo", HALLO, {"net": Origin(path)}, dtype)


def refusal(path: Path, content: Any) -> str:
    """What is said to a net.pth with this content."""
    if isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values()):
        save_file(content, path)  # read a lot faster than a pickle
    else:
        torch.save(content, path)
    with pytest.raises(BadInputError) as caught:
        plan(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


class Evil:
    """Pickled, it writes a file on loading."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_malicious_pickle_is_not_run(tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "pwned"
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(1), "b": Evil(proof)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInputError, match=r"calls (posix|nt)\.system, .*nothing of it was run"):
        plan(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file is harmless: the test shows nothing"


def test_a_plain_pickle_is_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "pwned"
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"state_dict": Evil(proof)}))
    with pytest.raises(BadInputError):
        plan(tmp_path / "net.pth")
    assert not proof.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"module": {f"module.{name}": value for name, value in state.items()}, "step": 5},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
    ],
    ids=["bare", "nested", "deepspeed", "compiled"],
)
def test_dumps_of_training_are_understood(tmp_path: Path, states: dict[str, State], wrap: Any, zipped: bool) -> None:
    state = {name: value for name, value in states["hallo"].items() if name.startswith("audioproj.")}
    torch.save(wrap(state), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    tensors = open_tensors(tmp_path / "net.pth")
    assert set(tensors) == set(state) and len(state) == 8
    assert all(torch.equal(tensors[name].read(), value) for name, value in state.items())


def test_missing_unexpected_and_other_shapes(tmp_path: Path, states: dict[str, State]) -> None:
    state = dict(states["hallo"])
    del state["imageproj.norm.bias"], state["imageproj.norm.weight"]
    state["surprise.weight"] = torch.zeros(2)
    state["audioproj.proj1.bias"] = torch.zeros(7)
    message = refusal(tmp_path / "net.pth", state)
    assert "2 of 2656 tensors are missing (imageproj.norm.weight, imageproj.norm.bias)" in message
    assert "1 do not belong to it (surprise.weight)" in message
    assert "1 have another shape (audioproj.proj1.bias has 7, not 48)" in message


def test_position_codes_may_be_absent(tmp_path: Path, states: dict[str, State]) -> None:
    codes = {name for name in states["hallo"] if name.endswith(".pos_encoder.pe")}
    save_file({name: value for name, value in states["hallo"].items() if name not in codes}, tmp_path / "net.pth")
    made = plan(tmp_path / "net.pth")
    assert len(codes) == 42 and "42 position codes" in made.notes[0]
    assert made.tensors is not None
    assert all(torch.equal(made.tensors[name].read(), states["hallo"][name]) for name in codes)


def test_joyhallo_given_as_hallo(tmp_path: Path, states: dict[str, State]) -> None:
    message = refusal(tmp_path / "net.pth", states["joyhallo"])
    assert "160 of 2656 tensors are missing" in message and "seems to be net.pth of JoyHallo" in message


def test_other_files_given_as_hallo(tmp_path: Path, echomimic_files: dict[str, State]) -> None:
    path = tmp_path / "net.pth"
    assert "EchoMimic's reference_unet" in refusal(path, echomimic_files["reference_unet"])
    lora = {"unet.down_blocks.0.attn.to_q.lora_down.weight": torch.zeros(4, 4)}
    assert "a LoRA" in refusal(path, {"state_dict": lora})
    face = {"params_ema": {"quantize.embedding.weight": torch.zeros(2, 2), "position_emb": torch.zeros(2, 2)}}
    assert "net_g.pth of hallo2" in refusal(path, face)
    assert "no state dict" in refusal(path, {"epoch": 3})
    assert "no state dict" in refusal(path, [1, 2])


@pytest.mark.parametrize(
    ("swapped", "given", "expected"),
    [
        ("denoising_unet", "reference_unet", "EchoMimic's reference_unet.pth"),
        ("motion_module", "face_locator", "EchoMimic's face_locator.pth"),
        ("denoising_unet", "motion_module", "a motion module"),
        ("face_locator", "hallo", "net.pth of Hallo"),
        ("reference_unet", "hallo", "net.pth of Hallo"),
    ],
)
def test_swapped_files_of_echomimic(
    tmp_path: Path,
    echomimic_files: dict[str, State],
    states: dict[str, State],
    swapped: str,
    given: str,
    expected: str,
) -> None:
    contents = {**echomimic_files, swapped: states["hallo"] if given == "hallo" else echomimic_files[given]}
    files = {}
    for name, state in contents.items():
        save_file(state, tmp_path / f"{name}.pth")
        files[name] = Origin(tmp_path / f"{name}.pth")
    with pytest.raises(BadInputError, match=f"'{swapped}.pth' does not hold .* seems to be {expected}"):
        plan_emo("echomimic", mini.MINI_CONFIGS["echomimic"], files, None)


def test_motion_keys_that_an_old_dump_repeats(tmp_path: Path, echomimic_files: dict[str, State]) -> None:
    """Upstream loads the denoiser's file last, so its values count."""
    name = next(iter(echomimic_files["motion_module"]))
    newer = torch.full_like(echomimic_files["motion_module"][name], 7)
    contents = {**echomimic_files, "denoising_unet": {**echomimic_files["denoising_unet"], name: newer}}
    files = {}
    for part, state in contents.items():
        save_file(state, tmp_path / f"{part}.pth")
        files[part] = Origin(tmp_path / f"{part}.pth")
    tensors = plan_emo("echomimic", mini.MINI_CONFIGS["echomimic"], files, None).tensors
    assert tensors is not None and torch.equal(tensors[f"denoising_unet.{name}"].read(), newer)


def test_truncated_and_damaged(tmp_path: Path, hallo_copy: Path) -> None:
    whole = (hallo_copy / "hallo/net.pth").read_bytes()
    path = tmp_path / "net.pth"
    for size_bytes in (len(whole) - 100, len(whole) // 2, 1000, 4):
        path.write_bytes(whole[:size_bytes])
        with pytest.raises(BadInputError, match="truncated or damaged"):
            plan(path)
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInputError, match="truncated or damaged"):
        plan(path)


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(4096)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for info in plain.infolist():
            bomb.writestr(info.filename, plain.read(info))
    with pytest.raises(BadInputError, match="compressed, which torch never does"):
        plan(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"", "it is empty"),
        (b"\x80\x02nonsense", "truncated or damaged|refused"),
        (b"MZ\x90\x00 something else entirely", "where it was published"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "neither safetensors nor torch"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(BadInputError, match=expected):
        plan(tmp_path / "net.pth")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadInputError, match="no file of weights"):
        plan(tmp_path / "net.pth")


def test_old_kinds_have_to_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    little = hardware.Memory(total=10**9, available=1000, limit=None)
    monkeypatch.setattr(hardware, "memory", lambda: little)
    with pytest.raises(BadInputError, match="read whole: 0.0 GB, and 0.0 GB of memory are free"):
        open_tensors(tmp_path / "net.pth")


def test_dtypes(tmp_path: Path, states: dict[str, State]) -> None:
    name = "imageproj.norm.bias"
    assert f"({name} is I64)" in refusal(tmp_path / "net.pth", {**states["hallo"], name: torch.ones(32).long()})
    save_file({**states["hallo"], name: torch.ones(32).double()}, tmp_path / "net.pth")
    made = plan(tmp_path / "net.pth")
    assert made.tensors is not None and made.tensors[name].dtype == "float32"
    assert made.notes == ("1 tensors were float64 and were written as float32.",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_that_are_no_numbers(tmp_path: Path, value: float, dtype: str) -> None:
    weight = torch.ones(300, dtype=getattr(torch, dtype))
    weight[123] = value
    with pytest.raises(BadInputError, match="tensor a.weight holds values that are no numbers"):
        write_tensors(tmp_path / "x", lazily({"a.weight": weight}), lambda more: None)


def test_values_too_large_for_half_floats(tmp_path: Path, states: dict[str, State]) -> None:
    name = "imageproj.norm.bias"
    save_file({**states["hallo"], name: torch.full((32,), 1e6)}, tmp_path / "net.pth")
    tensors = plan(tmp_path / "net.pth", "float16").tensors
    assert tensors is not None
    with pytest.raises(BadInputError, match=f"tensor {name} has values too large for float16: .*bfloat16"):
        write_tensors(tmp_path / "x", tensors, lambda more: None)


def test_the_writer_agrees_with_the_library(tmp_path: Path) -> None:
    """Odd shapes, scalars, nothing at all, views: read back as they were, and the sum is that of the file."""
    import hashlib

    state = {
        "a": torch.randn(3, 5).half(),
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 4),
        "turned": torch.randn(4, 6).t(),
        "expanded": torch.randn(1).expand(5, 5),
        "b": torch.randn(7).bfloat16(),
    }
    digest = write_tensors(tmp_path / "x", lazily(state), lambda more: None)
    assert digest == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    found = load_file(tmp_path / "x")
    assert set(found) == set(state) and all(torch.equal(found[name], state[name]) for name in state)


def network(folder: Path, weights: str) -> dict[str, Origin]:
    return {"config.json": Origin(folder / "config.json"), "weights": Origin(folder / weights)}


def changed(source: Path, target: Path, **values: object) -> Path:
    """A copy of a library's folder with other values in its config."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **values}))
    return target


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"scaling_factor": 0.13025}, "scaling factor 0.13025"),
        ({"latent_channels": 16}, "latent_channels is 16, not 4"),
        ({"_class_name": "AutoencoderTiny"}, "_class_name is AutoencoderTiny"),
        ({"block_out_channels": [8, 16]}, "8 x 8 px"),
        ({"block_out_channels": [8, 8, 16, 32]}, "does not hold the VAE"),
        ({"layers_per_block": 10**9}, "odd number of layers"),
        ({"norm_num_groups": 0}, "no network can be built"),
    ],
)
def test_other_vaes(hallo_copy: Path, tmp_path: Path, values: dict[str, object], expected: str) -> None:
    folder = changed(hallo_copy / "sd-vae-ft-mse", tmp_path / "vae", **values)
    with pytest.raises(BadInputError, match=expected):
        plan_vae(HALLO, network(folder, "diffusion_pytorch_model.safetensors"))


def test_taesd_in_place_of_the_vae_and_back(hallo_copy: Path) -> None:
    vae, taesd = hallo_copy / "sd-vae-ft-mse", hallo_copy / "taesd"
    weights = "diffusion_pytorch_model.safetensors"
    mixed = {"config.json": Origin(vae / "config.json"), "weights": Origin(taesd / weights)}
    with pytest.raises(BadInputError, match="seems to be TAESD"):
        plan_vae(HALLO, mixed)
    with pytest.raises(BadInputError, match="_class_name is AutoencoderKL"):
        plan_taesd(HALLO, network(vae, weights))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "hubert"}, "model_type is hubert, not wav2vec2"),
        ({"hidden_size": 1024}, "hidden_size is 1024, not 32"),
        ({"num_hidden_layers": 24}, "num_hidden_layers is 24, not 4"),
        ({"intermediate_size": 65}, "does not hold wav2vec2"),
    ],
)
def test_other_wav2vecs(hallo_copy: Path, tmp_path: Path, values: dict[str, object], expected: str) -> None:
    folder = changed(hallo_copy / "wav2vec/wav2vec2-base-960h", tmp_path / "sound", **values)
    with pytest.raises(BadInputError, match=expected):
        plan_wav2vec(HALLO, network(folder, "model.safetensors"))


def test_a_config_names_no_code_to_load(hallo_copy: Path, tmp_path: Path) -> None:
    auto = {"AutoModel": "evil--code.Model"}
    folder = changed(hallo_copy / "wav2vec/wav2vec2-base-960h", tmp_path / "sound", auto_map=auto, _name_or_path="x")
    text = plan_wav2vec(HALLO, network(folder, "model.safetensors"))[1].text
    assert text is not None and "evil" not in text and "_name_or_path" not in text


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe", b'{"a": "' + b"x" * 200_000 + b'"}'])
def test_configs_that_are_none(hallo_copy: Path, tmp_path: Path, content: bytes) -> None:
    folder = changed(hallo_copy / "sd-vae-ft-mse", tmp_path / "vae")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(BadInputError, match="no JSON|not the config"):
        plan_vae(HALLO, network(folder, "diffusion_pytorch_model.safetensors"))


def test_other_whispers(tmp_path: Path, states: dict[str, State]) -> None:
    echomimic, path = mini.MINI_CONFIGS["echomimic"], tmp_path / "whisper_tiny.pt"
    files = {"weights": Origin(path)}
    short = {name: value for name, value in mini.whisper_state().items() if ".blocks.3." not in name}
    torch.save({"model_state_dict": short}, path)
    with pytest.raises(BadInputError, match=r"another size \(width 32, 3 layers\)"):
        plan_whisper(echomimic, files)
    torch.save({"model_state_dict": states["hallo"]}, path)
    with pytest.raises(BadInputError, match="does not hold whisper's encoder.*seems to be net.pth of Hallo"):
        plan_whisper(echomimic, files)
    lacking = {name: value for name, value in mini.whisper_state().items() if "blocks.1.mlp.0" not in name}
    torch.save({"model_state_dict": lacking}, path)
    with pytest.raises(BadInputError, match="2 of .* tensors are missing"):
        plan_whisper(echomimic, files)
