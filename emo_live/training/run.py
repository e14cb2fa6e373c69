"""What every training stage shares: precision by what the machine can do, schedules, EMA, resumable checkpoints, logs.

A stage is a function `step(batch) -> {name: loss}`; `Run` owns everything around it. Checkpoints are written whole and
renamed.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from emo_live.errors import BadInputError

SAVE_EVERY_S = 180.0
SHIPPED = "shipped"  # the stage that `unpack` makes of the model in the package


@cache
def cpu_has_bf16() -> bool:
    """bf16 convolutions are worth using only with AVX512-BF16 or AMX: without them they run ten times slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda" or cpu_has_bf16())


@cache
def accelerator() -> Accelerator:
    """Accelerate's view of this process: its device, and gradients on it. Precision is `autocast`'s business."""
    return Accelerator(cpu=not torch.cuda.is_available())


def pick_device() -> torch.device:
    return accelerator().device


def channels_last(module: nn.Module) -> None:
    """In place; convolutions on a CPU and on tensor cores prefer it."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def written(path: Path, stage: str) -> Path:
    """`path`, if the stage that writes it has done so. Raises BadInputError."""
    if not path.exists():
        command = "unpack" if stage == SHIPPED else stage
        raise BadInputError(f"no {path.name} in {path.parent}: run `emo-live train {command}` first")
    return path


def load_weights(module: nn.Module, run: Path) -> None:
    """The averaged weights of a finished or running stage; what that stage did not train stays as it is in `module`.
    Raises BadInputError if it has not run."""
    state = torch.load(written(run / "state.pt", run.name), map_location="cpu", weights_only=True)
    module.load_state_dict({name: state["ema"][name] for name in state["trained"]}, strict=False)


@dataclass(frozen=True, slots=True)
class Budget:
    """minutes: wall-clock time over all resumes, by which the learning rate falls; steps: an upper bound, or None."""

    minutes: float
    steps: int | None
    batch: int
    seed: int


class Ema:
    """Exponential moving average of a module's weights, with the usual warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay, self.steps = copy.deepcopy(module).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        own = self.module.state_dict()
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                own[name].lerp_(value.detach().to(own[name].dtype), 1 - decay)
            else:
                own[name].copy_(value)


class Muon(torch.optim.Optimizer):
    """Momentum, its update orthogonalised by Newton-Schulz (K. Jordan et al. 2024), for weights of >= 2 dimensions."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                by_shape.setdefault((update.shape[0], update.shape[1]), []).append((p, update))
            for (rows, columns), members in by_shape.items():  # one batched iteration a shape: the matrices are small
                directions = orthogonal(torch.stack([update for _, update in members]))
                for (p, _), direction in zip(members, directions, strict=True):
                    p.add_(direction.view_as(p), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """(N, A, B) -> the nearest (semi-)orthogonal matrices, roughly: quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if cpu_has_bf16() or x.is_cuda:  # the iteration only needs directions
        x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


def optimizers(
    module: nn.Module, muon_lr: float | None, adam_lr: float, weight_decay: float = 0.01
) -> list[torch.optim.Optimizer]:
    """Muon for inner matrices and kernels, AdamW for the rest (biases, norms, first and last layers), or for all."""
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in module.named_parameters():
        if p.requires_grad:
            edge = any(part in name for part in ("conv_in", "conv_out", "proj1", "norm", "embedding"))
            (inner if muon_lr and p.ndim >= 2 and not edge else rest).append(p)
    adam = torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
    return [Muon(inner, muon_lr), adam] if muon_lr else [adam]


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def random_state() -> dict[str, Any]:
    """Of every generator that has a global state, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    state["numpy"] = (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if torch.cuda.is_available() and len(state.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


class Run:
    """One training run in a folder: state.pt (resumable), log.jsonl, tensorboard events. module: what is trained;
    beside: what else changes with every step and must be there when the run goes on."""

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optims: list[torch.optim.Optimizer],
        budget: Budget,
        *,
        ema: float = 0.999,
        beside: Mapping[str, Stateful] | None = None,
    ):
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.module, self.optims = folder, module, optims
        self.budget, self.beside = budget, dict(beside or {})
        self.ema, self.step, self.used_s = Ema(module, ema), 0, 0.0
        self.base_lr = [[group["lr"] for group in optim.param_groups] for optim in optims]
        if (folder / "state.pt").exists():
            self._resume()
        self.board = SummaryWriter(str(folder / "board"))

    def _resume(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location="cpu", weights_only=True)
        if "module" not in state:
            raise BadInputError(
                f"{self.folder} holds weights only, no run to go on with: rename it, and start from it if you like"
            )
        frozen = self._frozen()
        for module, name in ((self.module, "module"), (self.ema.module, "ema")):  # what is frozen was not saved
            wrong = module.load_state_dict(state[name], strict=False)
            if wrong.unexpected_keys or set(wrong.missing_keys) - frozen:
                raise BadInputError(f"{self.folder} is a run of another model or phase: give another folder")
        self.ema.steps, self.step, self.used_s = state["ema_steps"], state["step"], state["used_s"]
        for optim, saved in zip(self.optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        for name, part in self.beside.items():
            part.load_state_dict(state["beside"][name])
        if "random" in state:
            set_random_state(state["random"])

    def _frozen(self) -> set[str]:
        """Weights that others have: they are large, and stay as they came."""
        return {name for name, p in self.module.named_parameters() if not p.requires_grad}

    def save(self) -> None:
        part = self.folder / "state.pt.part"
        frozen = self._frozen()
        trained = [name for name in self.module.state_dict() if name not in frozen]
        module, ema = self.module.state_dict(), self.ema.module.state_dict()
        state = {
            "module": {name: module[name] for name in trained},
            "ema": {name: ema[name] for name in trained},
            "ema_steps": self.ema.steps,
            "trained": trained,
            "step": self.step,
            "used_s": self.used_s,
            "optims": [optim.state_dict() for optim in self.optims],
            "beside": {name: part.state_dict() for name, part in self.beside.items()},
            "random": random_state(),
        }
        torch.save(state, part)
        part.replace(self.folder / "state.pt")

    @property
    def progress(self) -> float:
        """0..1: share of the budget that is used."""
        by_time = self.used_s / (self.budget.minutes * 60)
        return min(1.0, max(by_time, self.step / self.budget.steps if self.budget.steps else 0.0))

    def _set_rate(self) -> None:
        p = self.progress
        factor = min(1.0, (self.step + 1) / 50) * (
            1.0 if p < 0.3 else 0.5 * (1 + math.cos(math.pi * (p - 0.3) / 0.7)) + 0.01
        )
        for optim, rates in zip(self.optims, self.base_lr, strict=True):
            for group, rate in zip(optim.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def train(
        self,
        batches: Iterator[Any],
        losses: Callable[[Any], dict[str, Tensor]],
        sample: Callable[[nn.Module, Path], dict[str, float]] | None = None,
        *,
        log_every: int = 20,
        sample_every_s: float = 300.0,
    ) -> dict[str, float]:
        """Runs until the budget is used. losses(batch)["loss"] is minimised. Returns the last averaged losses."""
        saved = sampled = time.monotonic()
        sums: dict[str, float] = {}
        means: dict[str, float] = {}
        count = 0
        while self.progress < 1:
            start = time.monotonic()
            self._set_rate()
            values = losses(next(batches))
            accelerator().backward(values["loss"])
            accelerator().clip_grad_norm_(self.module.parameters(), 1.0)
            for optim in self.optims:
                optim.step()
                optim.zero_grad(set_to_none=True)
            self.ema.update(self.module)
            self.step += 1
            self.used_s += time.monotonic() - start
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            count += 1
            if self.step % log_every == 0 or self.progress >= 1:
                means = {name: value / count for name, value in sums.items()}
                self._log({**means, "s_per_step": self.used_s / self.step})
                sums, count = {}, 0
            now = time.monotonic()
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = now
            if sample and (now - sampled > sample_every_s or self.progress >= 1):
                self._log(sample(self.ema.module, self.folder / f"sample_{self.step:06d}.png"))
                sampled = time.monotonic()
        self.save()
        self.board.close()
        return means

    def _log(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, self.step)
        line = {"step": self.step, "minutes": round(self.used_s / 60, 2), **{k: round(v, 5) for k, v in values.items()}}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(line, flush=True)
