"""Compiled: the same numbers by every way, the reason where a way does not work, and nobody's tensors overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from mini_checkpoint import MINI_CONFIGS, mini_call, randomised
from torch import Tensor

from emo_live.config import BackboneConfig
from emo_live.errors import BadInputError
from emo_live.models.compiled import MODES, Compiled, moved, placed
from emo_live.models.latent_emo import LatentEmo

CPU = torch.device("cpu")


class Recorder:
    """Stands in for CUDA graphs: keeps what was captured, and replays it into the tensor that it gave out."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self.captures += 1
        out = run()

        def replay() -> None:
            self.replays += 1
            out.copy_(run())

        return out, replay


@dataclass(frozen=True, slots=True)
class Given:
    bank: dict[str, Tensor]
    scales: tuple[float, ...]
    pair: tuple[Tensor, Tensor | None]


def mixed(x: Tensor, given: Given, factor: float) -> Tensor:
    total = x * factor + given.pair[0]
    for value, scale in zip(given.bank.values(), given.scales, strict=True):
        total = total + value * scale
    return total if given.pair[1] is None else total - given.pair[1]


def arguments(rows: int, seed: int = 0, *, last: bool = True) -> tuple[Tensor, Given, float]:
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d, e = torch.randn(5, rows, 3, generator=generator)
    return a, Given({"one": b, "two": c}, (0.5, 2.0), (d, e if last else None)), 3.0


def shallow(backbone: BackboneConfig) -> BackboneConfig:
    """Every kind of layer once or twice: tracing takes seconds of Python for each."""
    return replace(backbone, block_channels=(32, 64), attention_levels=(True, False), layers_per_block=1)


@pytest.fixture(params=["hallo", "echomimic"])
def emo(request: pytest.FixtureRequest) -> LatentEmo:
    config = MINI_CONFIGS[request.param]
    model = LatentEmo(replace(config, backbone=shallow(config.backbone), reference=shallow(config.reference)))
    randomised(model)
    return model


@pytest.mark.slow
@torch.inference_mode()
def test_a_denoiser_is_one_graph(emo: LatentEmo) -> None:
    """The compiler takes the whole call without a break; other values, timesteps too, are not new to it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fast = Compiled(emo.velocity, CPU, "compile", backend="aot_eager")
    for seed in (1, 2):
        given = mini_call(emo, frames=2, side=8, seed=seed)
        torch.testing.assert_close(fast(*given), emo.velocity(*given), rtol=0, atol=1e-5)
    assert (fast.mode, fast.why) == ("compile", "asked for")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@torch.inference_mode()
def test_a_denoiser_is_replayed(emo: LatentEmo) -> None:
    recorder = Recorder()
    fast = Compiled(emo.velocity, CPU, "graphs", capture=recorder)
    for frames, seed in ((2, 1), (1, 2), (2, 3)):
        given = mini_call(emo, frames=frames, side=8, seed=seed)
        assert torch.equal(fast(*given), emo.velocity(*given))
    assert (recorder.captures, recorder.replays) == (2, 3)


@torch.inference_mode()
def test_strengths_of_motion_are_not_compiled_in(emo: LatentEmo) -> None:
    """As tensors they may change from window to window without another capture, and mean what numbers mean."""
    recorder = Recorder()
    fast, given = Compiled(emo.velocity, CPU, "graphs", capture=recorder), mini_call(emo, frames=2, side=8)
    for scales in ((1.0, 1.0, 1.0), (0.5, 1.0, 1.2), (0.0, 1.0, 1.0)):
        assert torch.equal(fast(*given, torch.tensor(scales).unbind()), emo.velocity(*given, scales))
    assert recorder.captures == 1


def test_replays_see_new_values_and_overwrite_nobodys() -> None:
    fast = Compiled(mixed, CPU, "graphs", capture=Recorder())
    first, second = arguments(4), arguments(4, seed=1)
    kept = arguments(4)
    one = fast(*first)
    two = fast(*second)
    assert torch.equal(one, mixed(*first)) and torch.equal(two, mixed(*second))
    assert torch.equal(first[0], kept[0]) and torch.equal(first[1].bank["two"], kept[1].bank["two"])
    two.zero_()
    first[0].zero_()  # the capture has a copy of its own
    assert torch.equal(fast(*second), mixed(*second))
    assert torch.equal(one, mixed(*kept))


def test_what_is_no_tensor_is_part_of_the_shape() -> None:
    """Numbers, names in a dict, None in place of a tensor, dtypes: a capture serves only its own."""
    recorder = Recorder()
    fast = Compiled(mixed, CPU, "graphs", capture=recorder, max_shapes=10)
    x, given, _ = arguments(4)
    calls: list[tuple[Any, ...]] = [
        (x, given, 3.0),
        (x, given, 4.0),
        (x, Given(given.bank, (1.0, 1.0), given.pair), 3.0),
        (x, Given(given.bank, given.scales, (x, None)), 3.0),
        (x, Given(dict(given.bank, three=x), (1.0, 1.0, 1.0), given.pair), 3.0),
        (x.double(), given, 3.0),
        arguments(5),
    ]
    for call in [*calls, *calls]:
        assert torch.equal(fast(*call), mixed(*call))
    assert recorder.captures == len(calls)


def test_the_number_of_shapes_is_bounded() -> None:
    recorder = Recorder()
    fast = Compiled(mixed, CPU, "graphs", capture=recorder, max_shapes=2)
    for rows in (1, 2, 3, 4, 1, 3):
        assert torch.equal(fast(*arguments(rows)), mixed(*arguments(rows)))
    assert recorder.captures == 2
    assert fast.mode == "graphs"
    assert "more than 2 combinations of shapes" in fast.why


def broken_backend(graph: object, inputs: object) -> Callable[..., Tensor]:
    raise RuntimeError("no compiler on this machine\nand much more text")


def test_what_does_not_compile_runs_eagerly_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    fast = Compiled(mixed, CPU, "compile", backend=broken_backend)  # type: ignore[arg-type]
    assert fast.mode == "compile"
    for seed in (1, 2):
        assert torch.equal(fast(*arguments(3, seed)), mixed(*arguments(3, seed)))
    assert fast.mode == "eager"
    assert "not compiled" in fast.why and "no compiler on this machine" in fast.why and "\n" not in fast.why
    assert len([record for record in caplog.records if record.name.startswith("emo_live")]) == 1


def test_a_break_in_the_graph_is_a_reason() -> None:
    def breaks(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1

    fast = Compiled(breaks, CPU, "compile", backend="eager")
    assert torch.equal(fast(torch.ones(2)), torch.full((2,), 2.0))
    assert fast.mode == "eager" and "not compiled" in fast.why


def test_what_is_not_captured_runs_without() -> None:
    def no(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    fast = Compiled(mixed, CPU, "graphs", capture=no)
    assert torch.equal(fast(*arguments(3)), mixed(*arguments(3)))
    assert fast.mode == "eager" and "no CUDA graphs" in fast.why and "not permitted" in fast.why


@pytest.mark.parametrize("mode", ["compile", "graphs", "compile+graphs"])
def test_errors_of_the_call_are_the_callers(mode: Any) -> None:
    fast = Compiled(mixed, CPU, mode, backend="eager", capture=Recorder())
    x, given, factor = arguments(4)
    with pytest.raises(RuntimeError, match="size"):
        fast(x[:3], given, factor)
    assert fast.mode == mode, "the way was not to blame"
    assert torch.equal(fast(x, given, factor), mixed(x, given, factor))


@pytest.mark.parametrize("mode", ["compile", "graphs"])
def test_running_out_of_memory_is_not_hidden(mode: Any) -> None:
    def greedy(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def compiled_greedy(graph: object, inputs: object) -> Callable[..., Tensor]:
        return greedy

    fast = Compiled(greedy if mode == "graphs" else torch.neg, CPU, mode, backend=compiled_greedy, capture=Recorder())  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        fast(torch.ones(2))
    assert fast.mode == mode


def test_both_together() -> None:
    recorder = Recorder()
    fast = Compiled(mixed, CPU, "compile+graphs", backend="aot_eager", capture=recorder)
    for rows in (2, 3, 2):
        torch.testing.assert_close(fast(*arguments(rows)), mixed(*arguments(rows)))
    assert fast.mode == "compile+graphs" and recorder.captures == 2


def test_a_cpu_is_eager_unless_asked() -> None:
    fast = Compiled(mixed, CPU)
    assert (fast.mode, fast.why) == ("eager", "on a CPU compiling gains little")
    assert torch.equal(fast(*arguments(3)), mixed(*arguments(3)))
    graphs = Compiled(mixed, CPU, "graphs")
    assert graphs.mode == "eager" and "CUDA graphs need a CUDA device" in graphs.why


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(BadInputError, match=f"choose one of {', '.join(MODES)}".replace("+", r"\+")):
        Compiled(mixed, CPU, "fastest")  # type: ignore[arg-type]


def test_moved_arguments_keep_their_shape() -> None:
    x, given, factor = moved(arguments(4), CPU, torch.bfloat16)
    assert x.dtype == given.bank["two"].dtype == given.pair[1].dtype == torch.bfloat16
    assert (given.scales, factor) == ((0.5, 2.0), 3.0)
    assert moved((torch.tensor([1]), None), CPU, torch.bfloat16)[0].dtype == torch.int64


def test_placed_is_frozen() -> None:
    model = placed(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout()), CPU, torch.bfloat16)
    assert not model.training
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["auto", "compile", "graphs", "compile+graphs"])
@torch.inference_mode()
def test_on_a_gpu(emo: LatentEmo, mode: Any) -> None:
    device = torch.device("cuda")
    given = moved(mini_call(emo, frames=2, side=8), device)
    placed(emo, device, torch.float32)
    fast, expected = Compiled(emo.velocity, device, mode), emo.velocity(*given)
    for _ in range(3):
        torch.testing.assert_close(fast(*given), expected, rtol=0, atol=2e-3)
    assert fast.mode == ("compile+graphs" if mode == "auto" else mode), fast.why
