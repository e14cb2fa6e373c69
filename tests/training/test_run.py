"""A training run: stopped and taken up again it is the run that never stopped, and its files are whole."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emo_live.errors import BadInputError
from emo_live.training import run as running
from emo_live.training.run import Budget, Ema, Muon, Run, autocast, load_weights, optimizers, orthogonal

STEPS = 14
BUDGET = Budget(minutes=1e6, steps=STEPS, batch=4, seed=0)


class Small(nn.Module):
    """A first layer, a matrix, a norm: a parameter of every kind that the optimisers tell apart."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv_in = nn.Conv2d(2, 4, 3)
        self.matrix = nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.matrix(self.conv_in(x).flatten(1)))
        return out


def batches(first: int = 0) -> Iterator[Tensor]:
    """Batch k is the same in every run."""
    while True:
        yield torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(first))
        first += 1


def started(folder: Path, module: nn.Module, budget: Budget = BUDGET) -> Run:
    return Run(folder, module, optimizers(module, 0.02, 0.01), budget, ema=0.9)


def train(run: Run, source: Iterator[Tensor] | None = None, **options: Any) -> dict[str, float]:
    def loss(batch: Tensor) -> dict[str, Tensor]:
        error = (run.module(batch) - 1).square().mean()
        return {"loss": error, "half": error / 2}

    return run.train(batches(run.step) if source is None else source, loss, **options)


def interrupted(after: int) -> Iterator[Tensor]:
    for k, batch in enumerate(batches()):
        if k == after:
            raise KeyboardInterrupt
        yield batch


def same(a: Any, b: Any) -> bool:
    """Nested dicts and lists with equal tensors and numbers in them."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def saved(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state


@pytest.mark.parametrize("after", [1, 9])
def test_resumed_is_as_if_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    train(started(tmp_path / "whole", Small()))
    monkeypatch.setattr(running, "SAVE_EVERY_S", -1.0)  # after every step
    with pytest.raises(KeyboardInterrupt):
        train(started(tmp_path / "broken", Small()), interrupted(after))
    resumed = started(tmp_path / "broken", Small(seed=5))
    assert resumed.step == after and resumed.used_s > 0
    train(resumed)
    whole, broken = saved(tmp_path / "whole"), saved(tmp_path / "broken")
    assert broken["step"] == STEPS
    for part in ("module", "ema", "ema_steps", "trained", "optims"):
        assert same(whole[part], broken[part]), part


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), random.random(), float(np.random.rand()), float(np.random.randn())

    run = started(tmp_path, Small())
    run.save()
    wanted = draw()
    torch.manual_seed(77)
    random.seed(77)
    np.random.seed(77)
    started(tmp_path, Small())
    assert draw() == wanted


def test_what_else_changes_is_saved_beside(tmp_path: Path) -> None:
    def run_with(seed: int) -> tuple[Run, Small]:
        module, other = Small(), Small(seed)
        optims = optimizers(module, 0.02, 0.01)
        return Run(tmp_path, module, optims, BUDGET, ema=0.9, beside={"other": other}), other

    run, other = run_with(3)
    run.save()
    assert same(run_with(4)[1].state_dict(), other.state_dict())


def test_weights_alone_are_no_run(tmp_path: Path) -> None:
    torch.save({"ema": Small().state_dict(), "trained": []}, tmp_path / "state.pt")
    with pytest.raises(BadInputError, match="weights only"):
        started(tmp_path, Small())


def test_a_run_of_another_model(tmp_path: Path) -> None:
    started(tmp_path, Small()).save()
    module = Small()
    module.more = nn.Linear(2, 2)
    with pytest.raises(BadInputError, match="another model"):
        started(tmp_path, module)


def test_frozen_weights_are_not_saved(tmp_path: Path) -> None:
    """They are most of a large model."""
    module = Small()
    module.conv_in.requires_grad_(False)
    train(started(tmp_path, module))
    state = saved(tmp_path)
    assert not any(name.startswith("conv_in") for part in ("module", "ema") for name in state[part])
    module = Small()
    module.conv_in.requires_grad_(False)
    assert started(tmp_path, module).step == STEPS


def test_training_changes_and_lowers(tmp_path: Path) -> None:
    module = Small()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    first = float((module(next(batches())) - 1).square().mean().detach())
    train(started(tmp_path, module, Budget(minutes=1e6, steps=60, batch=4, seed=0)))
    assert not any(torch.equal(before[name], p) for name, p in module.named_parameters())
    assert float((module(next(batches())) - 1).square().mean().detach()) < 0.9 * first


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    train(started(tmp_path, Small()))
    before = saved(tmp_path)
    assert train(started(tmp_path, Small(seed=3))) == {}
    assert same(saved(tmp_path), before)


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(tmp_path, Small())
    run.save()
    before = (tmp_path / "state.pt").read_bytes()
    run.step = 7

    def full_disk(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="no space"):
            run.save()
    assert (tmp_path / "state.pt").read_bytes() == before
    assert started(tmp_path, Small()).step == 0


def test_a_checkpoint_gets_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, written, save = started(tmp_path, Small()), [], torch.save

    def watched(state: Any, path: Path) -> None:
        written.append(path.name)
        save(state, path)

    monkeypatch.setattr(torch, "save", watched)
    run.save()
    assert written == ["state.pt.part"]
    assert sorted(path.name for path in tmp_path.glob("state*")) == ["state.pt"]


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    train(started(tmp_path, Small()))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert {"module", "ema", "ema_steps", "trained", "step", "used_s", "optims"} <= state.keys()


def test_only_what_a_stage_trained_is_taken(tmp_path: Path) -> None:
    module = Small()
    module.conv_in.requires_grad_(False)
    run = started(tmp_path, module)
    train(run)
    other = Small(seed=9)
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    load_weights(other, tmp_path)
    averaged = run.ema.module.state_dict()
    for name, value in other.state_dict().items():
        expected = averaged if name.startswith(("matrix", "norm")) else fresh
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(other.matrix.weight, module.matrix.weight), "the averaged weights, not the last ones"


def test_frozen_weights_stay(tmp_path: Path) -> None:
    module = Small()
    module.conv_in.requires_grad_(False)
    before = module.conv_in.weight.clone()
    train(started(tmp_path, module))
    assert torch.equal(module.conv_in.weight, before)


def test_learning_rate_rises_holds_and_falls(tmp_path: Path) -> None:
    module, rates = Small(), []
    run = started(tmp_path, module, Budget(minutes=1e6, steps=250, batch=4, seed=0))

    def loss(batch: Tensor) -> dict[str, Tensor]:
        rates.append([o.param_groups[0]["lr"] / base for o, base in zip(run.optims, (0.02, 0.01), strict=True)])
        return {"loss": module.matrix.weight.square().mean()}

    run.train(batches(), loss, log_every=1000)
    assert all(a == pytest.approx(b) for a, b in rates), "both optimisers by the same factor"
    factor = [a for a, _ in rates]
    assert factor[:49] == pytest.approx([(k + 1) / 50 for k in range(49)])
    assert factor[50:75] == pytest.approx([1.0] * 25)
    assert all(a > b for a, b in zip(factor[76:], factor[77:], strict=False))
    assert factor[162] == pytest.approx(0.51, abs=0.02) and factor[-1] < 0.02


@pytest.mark.parametrize(("minutes", "steps", "used_s", "step", "progress"), [
    (2.0, None, 60.0, 10_000, 0.5),
    (2.0, 100, 60.0, 80, 0.8),
    (2.0, 100, 96.0, 20, 0.8),
    (2.0, 100, 1e9, 20, 1.0),
])  # fmt: skip
def test_progress(tmp_path: Path, minutes: float, steps: int | None, used_s: float, step: int, progress: float) -> None:
    run = started(tmp_path, Small(), Budget(minutes, steps, 4, 0))
    run.used_s, run.step = used_s, step
    assert run.progress == pytest.approx(progress)


def test_averages_of_weights() -> None:
    module = Small()
    ema, expected = Ema(module, 0.9), module.matrix.weight.detach().clone()
    for k in range(1, 120):
        with torch.no_grad():
            module.matrix.weight.add_(0.01 * k)
            module.count += 1
        ema.update(module)
        decay = min(0.9, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * module.matrix.weight.detach()
    averaged = ema.module
    assert isinstance(averaged, Small)
    torch.testing.assert_close(averaged.matrix.weight, expected, rtol=1e-4, atol=1e-4)
    assert int(averaged.get_buffer("count")) == 119, "what is no number to average is copied"
    assert not averaged.training and not averaged.matrix.weight.requires_grad


def test_logs_and_samples(tmp_path: Path) -> None:
    shown: list[tuple[nn.Module, Path]] = []

    def sample(ema: nn.Module, path: Path) -> dict[str, float]:
        shown.append((ema, path))
        return {"val_error": 0.25}

    run = started(tmp_path, Small())
    means = train(run, log_every=5, sample=sample)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, STEPS, STEPS]
    assert means["loss"] == pytest.approx(2 * means["half"]) and lines[2]["loss"] == pytest.approx(
        means["loss"], abs=1e-4
    )
    assert lines[0]["loss"] > lines[2]["loss"]
    assert lines[3]["val_error"] == 0.25
    assert shown == [(run.ema.module, tmp_path / f"sample_{STEPS:06d}.png")]
    assert list((tmp_path / "board").glob("events*"))


@pytest.mark.parametrize(("text", "expected"), [
    ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni", True),
    ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True),
    ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
    ("Features\t: asimd bf16 i8mm", False),
    (None, False),
])  # fmt: skip
def test_which_cpus_train_in_bf16(monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool) -> None:
    def read_text(self: Path) -> str:
        assert str(self) == "/proc/cpuinfo"
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert running.cpu_has_bf16.__wrapped__() is expected


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch, has: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(running, "cpu_has_bf16", lambda: has)
    a = torch.ones(4, 4)
    with autocast(torch.device("cpu")):
        assert (a @ a).dtype == dtype


def test_inner_matrices_go_to_muon() -> None:
    module = Small()
    module.norm.bias.requires_grad_(False)
    muon, adam = optimizers(module, 0.1, 0.2)
    members = [[id(p) for p in o.param_groups[0]["params"]] for o in (muon, adam)]
    rest = [module.conv_in.weight, module.conv_in.bias, module.matrix.bias, module.norm.weight]
    assert isinstance(muon, Muon) and members[0] == [id(module.matrix.weight)]
    assert sorted(members[1]) == sorted(map(id, rest))


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 32, 8), (3, 8, 32)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape)
    out = orthogonal(matrix)
    assert out.dtype == torch.float32 and out.shape == matrix.shape
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.3 and values.max() < 1.4
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest = left @ right
    assert ((out * nearest).sum((1, 2)) / (out.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))).min() > 0.95


def test_muon_descends() -> None:
    torch.manual_seed(0)
    weight, wanted = nn.Parameter(torch.randn(8, 16)), torch.randn(8, 16)
    muon, errors = Muon([weight], lr=0.1), []
    for _ in range(120):
        error = (weight - wanted).square().mean()
        error.backward()
        muon.step()
        muon.zero_grad()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.1 * errors[0]
