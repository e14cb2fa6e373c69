"""Every stage on one real batch: its loss falls within a few steps, and only what it selects changes."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emo_live.config import TINY
from emo_live.engine.motion_prior import MotionPrior
from emo_live.models.attention import choose_kernel
from emo_live.models.autoencoder import Autoencoder, MotionBasis
from emo_live.models.hearing import Hearing
from emo_live.training import autoencoder as painting
from emo_live.training import basis as bases
from emo_live.training import diffusion, stages, stages_measure, work_folder
from emo_live.training.autoencoder import AutoencoderLoss, Critic
from emo_live.training.diffusion import RATES, SILENT_WEIGHT, DiffusionLoss, Stage, hearing_loss, select
from emo_live.training.distil import train as phases
from emo_live.training.distil.loss import DistilLoss
from emo_live.training.distil.recipe import TINY_RECIPE, Phase
from emo_live.training.distil.tiny import TinyStudent
from emo_live.training.frame_data import FrameBatches, Shard
from emo_live.training.motion_data import MotionData
from emo_live.training.run import Budget, Run, load_weights, optimizers
from emo_live.training.teacher import Teacher

CPU = torch.device("cpu")
Losses = Callable[[dict[str, Tensor]], dict[str, Tensor]]
FOREVER = Budget(minutes=1e6, steps=None, batch=2, seed=0)
WARM = 50  # steps after which the learning rate has risen


class EnoughError(Exception):
    pass


def the_same(batch: dict[str, Tensor], times: int) -> Iterator[dict[str, Tensor]]:
    for _ in range(times):
        yield batch
    raise EnoughError


def descend(run: Run, losses: Losses, batch: dict[str, Tensor], steps: int) -> list[dict[str, float]]:
    """Steps on one batch, the noise and timesteps always the same ones. Returns what every step measured."""
    measured: list[dict[str, float]] = []

    def fixed(given: dict[str, Tensor]) -> dict[str, Tensor]:
        torch.manual_seed(3)
        values = losses(given)
        measured.append({name: float(value.detach()) for name, value in values.items()})
        return values

    run.step = WARM
    with pytest.raises(EnoughError):
        run.train(the_same(batch, steps), fixed)
    run.board.close()
    return measured


def falls(measured: list[dict[str, float]], name: str = "loss", to: float = 0.9) -> bool:
    values = [row[name] for row in measured]
    assert np.isfinite(values).all()
    return float(np.mean(values[-2:])) < to * values[0]


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def model(prior: MotionPrior, hearing: Hearing) -> Teacher:
    torch.manual_seed(0)
    made = Teacher(TINY, prior, hearing)
    choose_kernel(made, "matmul")
    return made


@pytest.fixture
def painter(basis: MotionBasis) -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(TINY.autoencoder)
    made.flow.basis.load_state_dict(basis.state_dict())
    return made


@pytest.fixture(scope="module")
def frames(shards: list[Shard]) -> dict[str, Tensor]:
    return FrameBatches(shards, 1, painting.PER_PORTRAIT, seed=0).draw()


def windows(data: MotionData, size: int, frames: int, ahead: int = 0) -> dict[str, Tensor]:
    return next(data.batches(size, (frames,), seed=0, ahead=ahead))


def test_autoencoder(painter: Autoencoder, frames: dict[str, Tensor], tmp_path: Path) -> None:
    before = copied(painter)
    run = Run(tmp_path, painter, optimizers(painter, *painting.RATES), FOREVER)
    measured = descend(run, AutoencoderLoss(painter, Critic(CPU), run), frames, 12)
    assert falls(measured) and falls(measured, "mouth")
    assert before.keys() - changed(painter, before) == {"flow.basis.basis", "flow.basis.scale"}


def test_the_painter_alone(painter: Autoencoder, frames: dict[str, Tensor], tmp_path: Path) -> None:
    painting.select_painter(painter)
    before, critic = copied(painter), Critic(CPU)
    optims = optimizers(painter, *painting.RATES_ALONE)
    run = Run(tmp_path, painter, optims, FOREVER, beside=critic.parts())
    measured = descend(run, AutoencoderLoss(painter, critic, run, painter_alone=True), frames, 12)
    assert falls(measured, "mouth") and not measured[0].keys() & {"flow", "hole", "photo"}
    assert changed(painter, before) == {name for name in before if name.startswith(painting.PAINTER)}
    # What it has learnt is laid over the autoencoder's weights, and goes on with its critic.
    run.save()
    other = copy.deepcopy(painter)
    other.load_state_dict(before)
    load_weights(other, tmp_path)
    assert changed(other, before) == changed(painter, before)
    again = Critic(CPU)
    Run(tmp_path, painter, optims, FOREVER, beside=again.parts()).board.close()
    assert not changed(again.net, copied(critic.net))


def test_the_discriminator_joins_late(painter: Autoencoder, frames: dict[str, Tensor]) -> None:
    early: Any = SimpleNamespace(progress=painting.CRITIC_FROM - 0.01)
    judge = Critic(CPU)
    loss, critic = AutoencoderLoss(painter, judge, early), copied(judge.net)
    assert "critic" not in loss(frames) and not changed(judge.net, critic)
    loss.run = SimpleNamespace(progress=painting.CRITIC_FROM + 0.01)  # type: ignore[assignment]
    values = loss(frames)
    assert {"critic", "adversarial"} <= values.keys()
    assert changed(judge.net, critic), "it has made a step of its own"
    values["adversarial"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in painter.mouth.parameters())
    assert all(p.requires_grad for p in judge.net.parameters()), "it goes on learning"


def test_a_portrait_is_encoded_once_for_its_frames(painter: Autoencoder, shards: list[Shard]) -> None:
    frames = FrameBatches(shards, 2, painting.PER_PORTRAIT, seed=0).draw()
    z = painter.flow.basis.encode(frames["motion"])
    with torch.no_grad():
        together = painting.decode(painter, frames, z, painting.PER_PORTRAIT)
        alone = painting.decode(painter, frames, z)
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-4)


def test_hearing(data: MotionData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Hearing(TINY.emo.audio_projection)
    before, run = copied(model), Run(tmp_path, model, optimizers(model, 6e-3, 1e-3), FOREVER)
    assert falls(descend(run, partial(hearing_loss, model), windows(data, 4, 8), 6), to=0.5)
    assert changed(model, before) == before.keys()


def test_lips_that_move_while_nothing_is_said_count_more(data: MotionData) -> None:
    model, batch = Hearing(TINY.emo.audio_projection), windows(data, 1, 4)
    spoken, silent = (hearing_loss(model, {**batch, "silent": torch.full((1, 1, 4), q)})["loss"] for q in (False, True))
    torch.testing.assert_close(silent, SILENT_WEIGHT * spoken)


def diffuse(model: Teacher, stage: Stage, data: MotionData, basis: MotionBasis, folder: Path, steps: int) -> Any:
    """What was measured and which parts changed."""
    select(model, stage)
    before, run = copied(model), Run(folder, model, optimizers(model, *RATES[stage]), FOREVER)
    batch = windows(data, 4, 1) if stage is Stage.IMAGE else windows(data, 1, 4)
    measured = descend(run, DiffusionLoss(model, basis, CPU, stage), batch, steps)
    moved = changed(model, before)
    assert moved <= {name for name, p in model.named_parameters() if p.requires_grad}
    return measured, moved


def heard_or_temporal(name: str) -> bool:
    return any(part in name for part in ("audio", "motion_modules", "speed_encoder", "shape_head"))


@pytest.mark.slow
def test_image(model: Teacher, data: MotionData, basis: MotionBasis, tmp_path: Path) -> None:
    measured, moved = diffuse(model, Stage.IMAGE, data, basis, tmp_path, 6)
    assert falls(measured, to=0.6) and measured[0]["shapes"] == 0
    assert not any(map(heard_or_temporal, moved))
    assert {"denoising_unet", "reference_unet", "face_locator", "portrait_encoder"} <= {n.split(".")[0] for n in moved}


@pytest.mark.slow
def test_video(model: Teacher, data: MotionData, basis: MotionBasis, tmp_path: Path) -> None:
    measured, moved = diffuse(model, Stage.VIDEO, data, basis, tmp_path, 5)
    assert falls(measured, to=0.6) and falls(measured, "v") and falls(measured, "shapes")
    for part in ("motion_modules", "audio_modules", "audioproj", "speed_encoder", "reference_unet", "shape_head"):
        assert any(part in name for name in moved), part


@pytest.mark.slow
def test_speed(model: Teacher, data: MotionData, basis: MotionBasis, tmp_path: Path) -> None:
    measured, moved = diffuse(model, Stage.SPEED, data, basis, tmp_path, 8)
    assert falls(measured, "v", to=0.97), "temporal layers alone are slow"
    assert all("motion_modules" in name or name.startswith("speed_encoder") for name in moved)
    assert any("motion_modules" in name for name in moved) and any(name.startswith("speed_encoder") for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("phase", TINY_RECIPE.phases[:2], ids=lambda phase: phase.name)
def test_distil(phase: Phase, model: Teacher, data: MotionData, basis: MotionBasis, tmp_path: Path) -> None:
    run = Run(tmp_path, model, optimizers(model, 4e-3, 8e-4), FOREVER)
    networks = (model, copy.deepcopy(model).requires_grad_(False), run.ema.module)
    loss = DistilLoss(TinyStudent(model, basis, CPU), networks, TINY_RECIPE, phase, CPU)
    measured = descend(run, loss, windows(data, 4, 2, ahead=phase.windows - 1), 5)
    assert falls(measured, to=0.8) and falls(measured, "shapes")
    for row in measured:
        assert row["loss"] == pytest.approx(row["miss"] + row["shapes"] + row["segments"], rel=1e-4)
        assert row["segments"] > 0


@pytest.mark.parametrize("stage", Stage)
def test_selection(model: Teacher, stage: Stage) -> None:
    select(model, Stage.SPEED)
    select(model, stage)  # whatever was frozen before
    chosen = {name for name, p in model.named_parameters() if p.requires_grad}
    every = {name for name, _ in model.named_parameters()}
    temporal = {name for name in every if "motion_modules" in name or name.startswith("speed_encoder")}
    heard = {name for name in every if "audio" in name or name.startswith("shape_head")}
    wanted = {Stage.IMAGE: every - temporal - heard, Stage.VIDEO: every, Stage.SPEED: temporal}
    assert chosen == wanted[stage] and chosen


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Stages without their steps: what would be trained is remembered and saved as it is."""
    started: list[nn.Module] = []

    def train(self: Run, *_: Any, **__: Any) -> dict[str, float]:
        started.append(self.module)
        self.save()
        self.board.close()
        return {}

    monkeypatch.setattr(Run, "train", train)
    return started


@pytest.fixture
def marked(prior: MotionPrior, hearing: Hearing, tmp_path: Path) -> Callable[[str, float], Path]:
    """Writes a finished stage in which all trained weights have one value, and all others -1."""

    def write(stage: str, value: float) -> Path:
        module: nn.Module
        if stage == "hearing":
            module = Hearing(TINY.emo.audio_projection)
        else:
            module = teacher = Teacher(TINY, prior, hearing)
            select(teacher, Stage(stage))
        for p in module.parameters():
            p.data.fill_(value if p.requires_grad else -1)
        run = Run(tmp_path / stage, module, optimizers(module, 0.1, 0.1), FOREVER)
        run.save()
        run.board.close()
        return tmp_path / stage

    return write


def values(module: nn.Module) -> dict[str, float]:
    """By parameter: the one value that it has everywhere, or NaN."""
    flat = {name: p.detach().flatten() for name, p in module.named_parameters()}
    return {name: float(p[0]) if bool((p == p[0]).all()) else float("nan") for name, p in flat.items()}


def test_a_stage_starts_from_what_the_ones_before_trained(
    model: Teacher, data: MotionData, basis: MotionBasis, tmp_path: Path, brief: list[nn.Module], marked: Any
) -> None:
    folders = [marked("image", 7.0), marked("hearing", 8.0)]
    diffusion.train(Stage.VIDEO, (data, data), basis, model, folders, tmp_path / "video", Budget(1, 1, 2, 0))
    found = values(brief[0])
    assert found["audioproj.proj1.weight"] == found["shape_head.bias"] == 8
    assert found["denoising_unet.conv_in.weight"] == found["reference_unet.conv_in.weight"] == 7
    untouched = [name for name in found if "motion_modules" in name]
    assert untouched and not any(found[name] in (7, 8, -1) for name in untouched)
    assert all(p.requires_grad for p in brief[0].parameters())
    state = torch.load(tmp_path / "video" / "state.pt", weights_only=True)
    assert not any("prior" in name or "hearing" in name for name in state["module"]), "they have files of their own"


@pytest.fixture
def opened(model: Teacher, data: MotionData, basis: MotionBasis, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    """What stages find in any work folder; the network of it."""
    monkeypatch.setattr(work_folder, "motion_data", lambda pack, work: (data, data))
    monkeypatch.setattr(work_folder, "new_model", lambda work: model)
    monkeypatch.setattr(bases, "load_basis", lambda path: basis)
    return model


def test_a_student_starts_as_its_teacher(opened: Teacher, tmp_path: Path, brief: list[nn.Module], marked: Any) -> None:
    """The teacher's last stage trains temporal layers only: its own weights are not the whole teacher."""
    for k, stage in enumerate(("image", "hearing", "video", "speed")):
        marked(stage, k + 1.0)
    stages.distil(tmp_path, tmp_path, minutes=1, steps=1, batch=2, seed=0)
    found = values(brief[0])
    temporal = {name for name in found if "motion_modules" in name or name.startswith("speed_encoder")}
    last = {name for name in found if name.startswith("denoising_unet.conv_out")}
    assert {found[name] for name in temporal} == {4.0}
    assert {found[name] for name in found.keys() - temporal - last} == {3.0}
    assert {found[name] for name in last} <= {0.0, 3.0}


def test_a_student_may_begin_with_another_run(
    opened: Teacher, tmp_path: Path, brief: list[nn.Module], marked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, stage in enumerate(("hearing", "video", "speed")):
        marked(stage, k + 1.0)
    teachers: list[nn.Module] = []
    loss = phases.DistilLoss
    monkeypatch.setattr(phases, "DistilLoss", lambda *given: teachers.append(given[1][1]) or loss(*given))
    runs = {"teacher_run": ["video"], "start": ["speed"]}
    stages.distil(tmp_path, tmp_path, **runs, minutes=1, steps=1, batch=2, seed=0)
    name = next(name for name in values(opened) if "motion_modules" in name)
    assert [values(network)[name] for network in (brief[0], teachers[0])] == [3.0, 2.0]


def test_any_stage_is_measured_by_its_roll_outs(
    opened: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "video", opened, optimizers(opened, 0.1, 0.1), FOREVER)
    run.save()
    run.board.close()
    stages_measure.roll_outs(work=tmp_path, steps=1, count=2)
    figures = ast.literal_eval(capsys.readouterr().out)
    assert {"val_corr", "val_opening", "val_energy", "val_energy_mouth"} <= figures.keys()
    assert -1 <= figures["val_corr"] <= 1 and all(0 < figures[name] < 10 for name in ("val_opening", "val_energy"))


def test_weights_of_a_stage_are_taken_by_name(model: Teacher, marked: Any) -> None:
    folder = marked("speed", 5.0)
    load_weights(model, folder)
    after = values(model)
    moved = {name for name in after if after[name] == 5}
    assert moved and all("motion_modules" in name or name.startswith("speed_encoder") for name in moved)
    assert not any(value == -1 for value in after.values())
