"""A model folder and a folder of films become another model folder, that opens, loads and says what it is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import films
import numpy as np
import pytest
import torch
from mini_checkpoint import MINI_CONFIGS, mini_model_folder
from safetensors.torch import load_file
from torch import nn

from emo_live.engine.published import PublishedOptions, opened
from emo_live.errors import BadInputError
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.vae import load_codec
from emo_live.models.wav2vec import streaming_features
from emo_live.training.distil import recipe as recipes
from emo_live.training.distil.latent import LatentStudent
from emo_live.training.distil.latent_data import LatentData, write_latents
from emo_live.training.distil.loss import DistilLoss
from emo_live.training.distil.low_rank import add_low_rank, fold_low_rank
from emo_live.training.distil.published import load_network, write_student
from emo_live.training.distil.recipe import HALLO_RECIPE
from emo_live.training.distil.student import Batch, flat_step, sample
from emo_live.training.stages import main
from emo_live.training.takes import gather, take_names
from emo_live.types import ModelFolder
from emo_live.weights import open_model
from emo_live.weights.manifest import read_manifest

CPU = torch.device("cpu")
SIZE = 128


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, still = tmp_path_factory.mktemp("films"), films.portrait()
    for name, pace in (("left", -14), ("right", 14)):
        pictures = [films.placed(still, pace * (i / 20 - 1.1), 0, size=(480, 540)) for i in range(43)]
        films.write(folder / f"{name}.mp4", pictures, 20, films.voice(2.3, start_s=0.4))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_model(mini_model_folder(tmp_path_factory.mktemp("weights") / "mini"))


@pytest.fixture(scope="module")
def work(footage: Path, teacher: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    gather(footage, work, {})
    write_latents(work, load_codec(teacher, "sd", CPU, torch.float32), SIZE)
    return work


@pytest.fixture(scope="module")
def data(work: Path, teacher: ModelFolder) -> LatentData:
    hear = streaming_features(teacher.sound, teacher.config, CPU, torch.float32)
    return LatentData(work, take_names(work, "train") + take_names(work, "val"), teacher.config, SIZE, hear)


def batch_of(data: LatentData, windows: int, frames: int, size: int = 2) -> Batch:
    return next(data.batches(size, (frames,), windows, seed=0))


def test_latents_are_those_of_the_pictures_shown(work: Path, teacher: ModelFolder, data: LatentData) -> None:
    codec = load_codec(teacher, "sd", CPU, torch.float32)
    clip = data.clips[0]
    assert clip.z.shape == (len(clip.pcm) // 640, 4, SIZE // 8, SIZE // 8) and clip.z.dtype == np.float16
    with np.load(work / "clips" / f"{take_names(work, 'train')[0]}.npz") as take:
        still = torch.from_numpy(take["portrait"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    code = codec.encode(nn.functional.interpolate(still, size=(SIZE, SIZE), mode="area"))[0].numpy()
    assert np.corrcoef(code.ravel(), clip.code.astype(np.float32).ravel())[0, 1] > 0.97
    apart = np.square(clip.z.astype(np.float32) - clip.code).mean((1, 2, 3))
    assert apart.min() < 0.2 * apart.max(), "the portrait is one of the pictures, and the head moves away from it"


def test_windows_of_a_row_continue_each_other(data: LatentData) -> None:
    batch = batch_of(data, windows=3, frames=4, size=6)
    assert batch["z"].shape == (6, 3, 4, 4, 16, 16) and batch["features"].shape == (6, 3, (4 + 4) * 4, 32)
    torch.testing.assert_close(batch["motion"][:, 1:], batch["z"][:, :-1, -2:])
    again = batch_of(data, windows=3, frames=4, size=6)
    assert all(torch.equal(batch[name], again[name]) for name in batch), "of the seed and the number alone"
    later = next(data.batches(6, (4,), 3, seed=0, first=1))
    assert not torch.equal(later["z"], batch["z"])


def test_features_are_those_of_a_live_session(data: LatentData) -> None:
    """Nothing behind the look-ahead is heard."""
    clip = data.clips[0]
    cut = replace(clip, pcm=np.where(np.arange(len(clip.pcm)) < 26 * 640, clip.pcm, 0.5).astype(np.float32))
    torch.testing.assert_close(data.features(clip, 20, 4), data.features(cut, 20, 4))
    assert not torch.allclose(data.features(clip, 21, 4), data.features(cut, 21, 4))


def test_films_that_are_too_short(data: LatentData) -> None:
    with pytest.raises(BadInputError, match="no clip has 3.8 s"):
        next(data.batches(1, (16,), 6, seed=0))


@pytest.mark.parametrize("kind", ["hallo", "echomimic"])
def test_only_motion_frames_change_what_comes_out(kind: Any, data: LatentData, teacher: ModelFolder) -> None:
    """Published Hallo drops them in evaluation mode; EchoMimic has none."""
    torch.manual_seed(0)
    config = MINI_CONFIGS[kind]
    network = load_network(teacher) if kind == "hallo" else LatentEmo(config)
    student, window = LatentStudent(config), LatentStudent(config).window(batch_of(data, 1, 4), 0)
    if kind == "echomimic":
        around = config.audio_projection
        window["features"] = torch.randn(2, (4 + around.frames - 1) * around.blocks, around.width)
        window["region"] = window["region"][:, :1]
    x, t = torch.randn_like(window["z"]), torch.full((2, 4), 749)
    with torch.no_grad():
        outs = [
            student.velocity(network.eval(), x, t, student.reads(network, window, past))
            for past in (window["motion"], window["motion"] + 1)
        ]
    assert outs[0].isfinite().all()
    assert torch.equal(*outs) == (kind == "echomimic")


@pytest.fixture(scope="module")
def without_temporal(teacher: ModelFolder) -> LatentEmo:
    network = load_network(teacher).eval()
    for name, p in network.named_parameters():
        if "temporal_transformer.proj_out" in name:
            p.data.zero_()
    return network


def test_a_frames_own_timestep_is_the_windows_bit_by_bit(data: LatentData, without_temporal: LatentEmo) -> None:
    """Where nothing mixes frames, a frame comes out as if the whole window had its noise level."""
    student = LatentStudent(without_temporal.config)
    window = student.window(batch_of(data, 1, 4, size=1), 0)
    x, own = torch.randn_like(window["z"]), torch.tensor([[749, 249, 749, 999]])
    schedule, v = student.schedule, torch.randn_like(x)
    with torch.no_grad():
        given = student.reads(without_temporal, window, window["motion"])
        mixed = student.velocity(without_temporal, x, own, given)
        stepped = flat_step(schedule, x, v, own, own - 100)
        for level in own.unique():
            t, frames = torch.full_like(own, int(level)), own == level
            assert torch.equal(mixed[frames], student.velocity(without_temporal, x, t, given)[frames])
            assert torch.equal(
                stepped[frames], schedule.ddim_step(x[0], v[0], level[None], level[None] - 100)[frames[0]]
            )


def test_frames_may_be_in_any_order(data: LatentData, without_temporal: LatentEmo) -> None:
    """A noise level goes with its frame, and rows of a batch do not know of each other."""
    student = LatentStudent(without_temporal.config)
    window = student.window(batch_of(data, 1, 4), 0)
    x, t, order = torch.randn_like(window["z"]), torch.tensor([[999, 749, 499, 249]] * 2), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        given = student.reads(without_temporal, window, window["motion"])
        out = student.velocity(without_temporal, x, t, given)
        moved = replace(given, tokens=given.tokens[:, order])
        again = student.velocity(without_temporal, x[:, order], t[:, order], moved)
        torch.testing.assert_close(again, out[:, order], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(student.velocity(without_temporal, x[:, order], t, moved), out[:, order], atol=1e-2)
        swapped = student.velocity(without_temporal, x.flip(0), t, given.rows(torch.tensor([1, 0])))
        torch.testing.assert_close(swapped, out.flip(0), rtol=1e-3, atol=1e-4)


def test_sizes_without_motion_frames_continue_nothing(data: LatentData) -> None:
    config = MINI_CONFIGS["echomimic"]
    student, phase = LatentStudent(config), HALLO_RECIPE.phases[1]
    batch = batch_of(data, phase.windows, 2)
    batch["motion"] = batch["motion"][:, :, :0]
    loss = DistilLoss(student, (None, None, None), HALLO_RECIPE, phase, CPU)
    windows = [student.window(batch, i) for i in range(phase.windows)]
    assert loss._roll_out(windows, torch.zeros(2, 6, 4, 16, 16)).shape[1] == 0


def test_lips_are_what_is_compared_with_the_truth(data: LatentData) -> None:
    student = LatentStudent(MINI_CONFIGS["hallo"])
    window = student.window(batch_of(data, 1, 4), 0)
    true, where = window["z"], student.lips(window, torch.Size((16, 16)))
    assert 0.02 < float(where.mean()) < 0.3
    row = int(where[0, 0].sum(1).argmax())
    assert row > 8, "lips are in the lower half"
    elsewhere = true + 3 * (where == 0)[:, :, None]
    assert student.distance(elsewhere, true, window).max() < 0.01
    assert student.distance(true + where[:, :, None], true, window).min() > 0.3


def test_sizes_without_masks_look_at_the_lower_half_of_the_face() -> None:
    region = torch.zeros(1, 1, 128, 128)
    region[..., 32:96, 40:80] = 1
    student: Any = LatentStudent(MINI_CONFIGS["echomimic"])
    where = student.lips({"region": region}, torch.Size((16, 16)))[0, 0]
    assert set(torch.nonzero(where)[:, 0].tolist()) == {8, 9, 10, 11}


def test_changes_of_low_rank(teacher: ModelFolder) -> None:
    network = load_network(teacher)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    add_low_rank(network.denoising_unet, 4)
    added = [p for name, p in network.named_parameters() if "parametrizations.weight.0" in name]
    assert added and all(4 in p.shape for p in added)
    fold_low_rank(network)
    after = network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    add_low_rank(network.denoising_unet, 4)
    for name, p in network.named_parameters():
        if "parametrizations.weight.0.up" in name:
            p.data.normal_()
    fold_low_rank(network)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("denoising_unet" in name and ".attn1.to_" in name for name in moved)
    change = network.state_dict()[min(moved)] - before[min(moved)]
    assert int(torch.linalg.matrix_rank(change, atol=1e-4)) == 4


def test_recomputing_changes_no_gradient(data: LatentData, teacher: ModelFolder) -> None:
    from emo_live.models.backbone import Block

    network, student = load_network(teacher), LatentStudent(teacher.config)
    window = student.window(batch_of(data, 1, 2, size=1), 0)
    x, grads = torch.randn_like(window["z"]), []
    for recompute in (False, True):
        for block in network.denoising_unet.modules():
            if isinstance(block, Block):
                block.recompute = recompute
        given = student.reads(network, window, window["motion"])
        student.velocity(network, x, torch.full((1, 2), 499), given).square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        network.zero_grad()
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_films_to_a_model_folder(
    footage: Path, work: Path, teacher: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "HALLO_RECIPE", replace(HALLO_RECIPE, frames=(4,)))  # short windows: less to compute
    work, out = Path(shutil.copytree(work, tmp_path / "work")), tmp_path / "quick"  # with its films looked through
    arguments = ["distil", "--teacher", str(teacher.path), "--films", str(footage), "--out", str(out)]
    arguments += ["--size", "128", "--steps", "2", "--batch", "1", "--work", str(work)]
    assert main(arguments) == 0
    few = PublishedOptions("hallo", weights=out, sampler="segment", steps=4, guidance=1.0)
    made = opened(few)
    assert (made.model, made.name) == ("hallo", "quick") and not made.config.schedule.fixed_stride
    assert "--sampler segment --steps 4 --guidance 1" in read_manifest(out).notes[-1]
    old, new = load_file(teacher.emo), load_file(made.emo)
    assert old.keys() == new.keys() and all(new[name].dtype == old[name].dtype for name in old)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert any("motion_modules" in name for name in moved) and any("audio_modules" in name for name in moved)
    assert any(".attn1.to_q.weight" in name for name in moved), "the folded changes of low rank"
    assert not any(name.startswith(("reference_unet", "face_locator", "imageproj")) for name in moved)
    assert {path.name for path in (work / "distil").iterdir()} >= {"state.pt", "segments"}
    student, network = LatentStudent(made.config), load_network(made).eval()
    hear = streaming_features(made.sound, made.config, CPU, torch.float32)
    window = student.window(batch_of(LatentData(work, take_names(work, "train"), made.config, 128, hear), 1, 4), 0)
    with torch.no_grad():
        given = student.reads(network, window, window["motion"])
        assert sample(student, network, torch.randn_like(window["z"]), given, 4).isfinite().all()
    with pytest.raises(BadInputError, match="is there already"):
        main(arguments)


def test_a_result_that_cannot_be_written_leaves_nothing(
    teacher: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo_live.training.distil import published

    def full_disk(*_: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(published, "write_tensors", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_student(load_network(teacher), teacher, HALLO_RECIPE, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["--teacher", "hallo"], "give --films"),
    (["--teacher", "nobody", "--films", ".", "--out", "x"], "no model is called 'nobody'"),
    (["--work", "nowhere"], "no run in nowhere/video"),
    (["--work", "nowhere", "--start", "mine"], "no run in nowhere/mine"),
    (["--work", "nowhere", "--teacher-run", "mine", "--start", "shipped"], "no run in nowhere/mine"),
])  # fmt: skip
def test_wrong_arguments(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMO_LIVE_WEIGHTS_ROOT", str(tmp_path))
    with pytest.raises(BadInputError, match=message):
        main(["distil", *arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "out", "message"), [
    ("100", "new", "multiple of 64"),
    ("128", "a name", "not the name of a model"),
])  # fmt: skip
def test_wrong_sizes_and_names(size: str, out: str, message: str, teacher: ModelFolder, tmp_path: Path) -> None:
    arguments = ["--teacher", str(teacher.path), "--films", str(tmp_path), "--out", str(tmp_path / out)]
    with pytest.raises(BadInputError, match=message):
        main(["distil", *arguments, "--size", size, "--work", str(tmp_path / "work")])
    assert list(tmp_path.iterdir()) == []
