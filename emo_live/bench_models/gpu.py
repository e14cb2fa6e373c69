"""`emo-live bench gpu`: published sizes with random weights on a GPU, stage by stage and as whole windows.

What matters most is measured first; a case that would not end in time is left out, and said to be. Results are handed
over one by one, so that a run that is cut off has told what it knew. Units: ms a frame of the window, unless said.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from emo_live.bench_models.random_parts import ModelName, Parts, random_parts
from emo_live.errors import BadInputError
from emo_live.models.compiled import Compiled, Mode
from emo_live.models.emo import Portrait
from emo_live.models.memory import memory_need
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import guided, make_sampler
from emo_live.types import MODEL_STEP_SAMPLES

STEPS = (1, 2, 4, 6)
FRAMES = 12  # of a window, without motion frames
DECODED_TOGETHER = 4
GUIDANCE = 3.5
TIMED_S = 1.0  # how long each stage is repeated on a GPU, and at least three times
MATMUL = 8192
# Before a kind of case has been seen: seconds for making the weights and compiling.
FIRST_GUESS_S = {"eager": 40.0, "graphs": 50.0, "compile+graphs": 240.0}


@dataclass(frozen=True, slots=True)
class Case:
    model: ModelName
    size_px: int
    dtype: str
    mode: Mode
    vae: str
    guidance: bool


def plan(*, small: bool) -> list[Case]:
    """Most important first. Cases of one model in one format follow each other, for they share its weights."""
    large, less = (64, 32) if small else (512, 256)
    base = Case("hallo", large, "bfloat16", "eager", "taesd", guidance=False)
    fast: Mode = "graphs" if small else "compile+graphs"
    hallo = [
        base,
        replace(base, mode=fast),
        replace(base, mode="graphs"),
        replace(base, mode=fast, size_px=less),
        replace(base, vae="sd"),
        replace(base, guidance=True),
        replace(base, size_px=less),
        replace(base, mode="graphs", size_px=less),
        replace(base, mode="graphs", size_px=less, guidance=True),
    ]
    echomimic = [replace(base, model="echomimic", dtype="float16", mode=mode) for mode in ("eager", "graphs", fast)]
    half = [replace(base, dtype="float16", mode="graphs"), replace(base, dtype="float16", mode=fast)]
    cases = [*hallo, *echomimic, *half]
    if small:  # one of each kind; half precision is slower than single on a CPU
        cases = [replace(case, dtype="float32") for case in (cases[0], *cases[3:6], echomimic[0])]
    return list(dict.fromkeys(cases))


@dataclass(frozen=True, slots=True)
class Row:
    """One case. mode: what was in use in the end; why: the reason. denoise_ms: of one step; fps: of whole windows by
    steps; tflops: of a denoising step; roofline: its share of what a large matrix product reaches here; memory_gb: the
    most that torch held, estimate_gb what memory.py says beforehand; ready_s: making weights, compiling, capturing."""

    model: str
    size_px: int
    dtype: str
    vae: str
    guidance: bool
    mode: str
    why: str
    denoise_ms: float
    decode_ms: float
    motion_bank_ms: float
    sound_ms: float
    fps: dict[str, float]
    gflop: float
    tflops: float
    roofline: float
    memory_gb: float | None
    estimate_gb: float
    ready_s: float

    def as_dict(self) -> dict[str, Any]:
        """Flat: a column for each number of steps."""
        row = {name: value for name, value in asdict(self).items() if name != "fps"}
        return {**row, **{f"fps_{steps}": fps for steps, fps in self.fps.items()}}


def machine(device: torch.device, dtype: torch.dtype, *, small: bool) -> dict[str, Any]:
    """The card, and what it reaches in a large matrix product: the roof of `roofline`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    total = torch.cuda.mem_get_info(device)[1] / 1e9 if device.type == "cuda" else None
    return {
        "device": name,
        "memory_gb": total,
        "torch": torch.__version__,
        "frames_a_window": FRAMES if not small else 2,
        "matmul_tflops": matmul_tflops(device, dtype, 256 if small else MATMUL),
    }


def matmul_tflops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    return 2 * side**3 / _seconds(lambda: a @ b, device) / 1e12


def chosen(device: str | None, *, small: bool) -> torch.device:
    """Raises BadInputError where there is nothing to measure on."""
    if (device or "cuda").startswith("cuda"):
        if not torch.cuda.is_available():
            raise BadInputError(
                "this measures an NVIDIA GPU, and torch finds none: see emo-live doctor; "
                "--device cpu --small tries the benchmark out"
            )
        return torch.device(device or "cuda")
    if device != "cpu":
        raise BadInputError(f"device must be cpu, cuda or cuda:N, not {device!r}")
    if not small:
        raise BadInputError("published sizes take hours on a CPU: add --small")
    return torch.device("cpu")


@torch.inference_mode()
def measure(
    *, device: str | None, minutes: float, small: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[dict[str, Any]]:
    """Yields what is known, as it comes: {"machine"}, {"row"} for each case, {"left_out"} at the end."""
    end = clock() + minutes * 60
    where, frames = chosen(device, small=small), 2 if small else FRAMES
    cases = plan(small=small)
    roofs: dict[str, float] = {}
    told = machine(where, getattr(torch, cases[0].dtype), small=small)
    yield {"machine": told}
    parts: Parts | None = None
    kept: tuple[str, str] | None = None
    took: dict[str, float] = {"eager": 1.0, "graphs": 1.0, "compile+graphs": 1.0} if small else dict(FIRST_GUESS_S)
    left_out: list[dict[str, Any]] = []
    for case in cases:
        if clock() + took[case.mode] > end:
            left_out.append({**asdict(case), "reason": "no time"})
            continue
        begin, dtype = clock(), getattr(torch, case.dtype)
        if parts is None or kept != (case.model, case.dtype):
            parts = None
            _free(where)
            parts, kept = random_parts(case.model, where, dtype, small=small), (case.model, case.dtype)
        if case.dtype not in roofs:
            roofs[case.dtype] = matmul_tflops(where, dtype, 256 if small else MATMUL)
        try:
            row = _Bench(case, parts, where, dtype, frames).row(begin, clock, roofs[case.dtype])
        except torch.OutOfMemoryError:
            left_out.append({**asdict(case), "reason": "out of memory"})
        except RuntimeError as error:  # of one case; the others are measured all the same
            left_out.append({**asdict(case), "reason": str(error).strip().partition("\n")[0]})
        else:
            took[case.mode] = clock() - begin
            yield {"row": row.as_dict()}
        _free(where)
    yield {"left_out": left_out}


class _Bench:
    """One case, ready to be timed."""

    def __init__(self, case: Case, parts: Parts, device: torch.device, dtype: torch.dtype, frames: int):
        self.case, self.parts, self.device, self.dtype, self.frames = case, parts, device, dtype, frames
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.compiled = Compiled(parts.emo.velocity, device, case.mode)
        self.codec, self.side = parts.codecs[case.vae], case.size_px // 8
        self.portrait = self._portrait()
        config = parts.emo.config
        around = config.audio_projection.frames - 1
        pcm = np.random.default_rng(0).normal(0, 0.1, parts.hear.context_samples).astype(np.float32)
        self.pcm, self.heard = pcm[-(parts.hear.context_samples // MODEL_STEP_SAMPLES) * MODEL_STEP_SAMPLES :], around
        self.noise = torch.randn(frames, 4, self.side, self.side, device=device)

    def _portrait(self) -> Portrait:
        emo, side = self.parts.emo, self.side
        config = emo.config

        def ones(*shape: int) -> Tensor:
            return torch.ones(shape, device=self.device, dtype=self.dtype)

        levels = range(len(config.backbone.block_channels))
        masks = tuple((ones(1, (side >> level) ** 2),) * 3 for level in levels)
        region = ones(1, config.locator.in_channels, 8 * side, 8 * side)
        face = ones(1, config.face_projection.width if config.face_projection else 0)
        portrait = emo.prepare(0.5 * ones(1, 4, side, side), region, masks, face)
        return emo.with_guidance(portrait) if self.case.guidance else portrait

    @property
    def rows(self) -> int:
        return len(self.portrait.code)

    def sound(self) -> Tensor:
        features = self.parts.hear(self.pcm, self.frames + self.heard).to(self.device, self.dtype)
        tokens = self.parts.emo.audio_tokens(features[None])
        return tokens.expand(self.rows, -1, -1, -1)

    def bank(self, latents: Tensor) -> Bank | None:
        """latents: (n, 4, h, w) of the motion frames."""
        if not self.parts.emo.config.motion_frames:
            return None
        return self.parts.emo.motion_bank(latents.to(self.dtype).expand(self.rows, *latents.shape), self.portrait)

    def step(self, noisy: Tensor, timestep: int, bank: Bank | None, sound: Tensor) -> Tensor:
        x = noisy.to(self.dtype).expand(self.rows, *noisy.shape)
        times = torch.full((self.rows, self.frames), timestep, device=self.device)
        v = self.compiled(x, times, self.portrait, bank, sound, None).float()
        return guided(v[0], v[1], GUIDANCE) if self.rows == 2 else v[0]

    def decode(self, latents: Tensor) -> Tensor:
        pictures = [self.codec.decode(part) for part in latents.split(DECODED_TOGETHER)]
        return torch.cat([((x + 1) * 127.5).to(torch.uint8) for x in pictures]).cpu()

    def window(self, steps: int) -> Tensor:
        """Everything between sound and pictures in main memory, one after the other."""
        n = self.parts.emo.config.motion_frames
        sound, bank = self.sound(), self.bank(self.noise[:n])
        sampler, x = make_sampler("segment", self.parts.emo.config.schedule, steps), self.noise
        for i, timestep in enumerate(sampler.timesteps):
            x = sampler.step(i, x, self.step(x, timestep, bank, sound), lambda: self.noise)
        return self.decode(x)

    def row(self, begin: float, clock: Callable[[], float], roof: float) -> Row:
        case, frames = self.case, self.frames
        sound, bank = self.sound(), self.bank(self.noise[: self.parts.emo.config.motion_frames])
        gflop = self._gflop(bank, sound)
        self.window(1)  # compiles, captures, and lets libraries choose their kernels
        _wait(self.device)
        ready = clock() - begin

        def ms(job: Callable[[], object]) -> float:
            return _seconds(job, self.device) * 1000 / frames

        denoise = ms(lambda: self.step(self.noise, 999, bank, sound))
        held = torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None
        tflops = gflop / denoise / frames
        return Row(
            **{name: value for name, value in asdict(case).items() if name != "mode"},
            mode=self.compiled.mode,
            why=self.compiled.why,
            denoise_ms=denoise,
            decode_ms=ms(lambda: self.decode(self.noise)),
            motion_bank_ms=ms(lambda: self.bank(self.noise[: self.parts.emo.config.motion_frames])),
            sound_ms=ms(self.sound),
            fps={str(steps): 1000 / ms(lambda steps=steps: self.window(steps)) for steps in STEPS},  # type: ignore[misc]
            gflop=gflop,
            tflops=tflops,
            roofline=tflops / roof,
            memory_gb=held,
            estimate_gb=self._estimate() / 1e9,
            ready_s=ready,
        )

    def _estimate(self) -> int:
        vae: Literal["sd", "taesd"] = "sd" if self.case.vae == "sd" else "taesd"
        config, case = self.parts.emo.config, self.case
        return memory_need(
            config, self.dtype, case.size_px, self.frames, case.guidance, vae=vae, pictures_at_once=DECODED_TOGETHER
        )

    def _gflop(self, bank: Bank | None, sound: Tensor) -> float:
        """Of one denoising step, run eagerly, as torch counts it."""
        x = self.noise.to(self.dtype).expand(self.rows, *self.noise.shape)
        times = torch.full((self.rows, self.frames), 999, device=self.device)
        with FlopCounterMode(display=False) as counter:
            self.parts.emo.velocity(x, times, self.portrait, bank, sound, None)
        return counter.get_total_flops() / 1e9


def _seconds(job: Callable[[], object], device: torch.device) -> float:
    """Median of runs that follow each other, waiting for each; the first does not count."""
    job()
    _wait(device)
    times: list[float] = []
    while not times or (device.type == "cuda" and (len(times) < 3 or sum(times) < TIMED_S)):
        start = time.perf_counter()
        job()
        _wait(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    """Weights and captures of the last case, before those of the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
