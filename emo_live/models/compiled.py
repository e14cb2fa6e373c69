"""Makes a network's call fast on a GPU: layout and dtype, torch.compile, CUDA graphs; says what it does, and why.

Each combination of shapes is compiled and captured at its first call, for a bounded number of them; what fails falls
back to the next slower way with the reason. It knows nothing of what it calls. One thread at a time may call it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emo_live.errors import BadInputError

log = logging.getLogger(__name__)

Mode = Literal["auto", "eager", "compile", "graphs", "compile+graphs"]
MODES: tuple[Mode, ...] = ("auto", "eager", "compile", "graphs", "compile+graphs")
MAX_SHAPES = 6  # a short and a long window, at one size and two
WARM_UP_CALLS = 3  # as torch asks for before a capture: libraries choose their kernels in the first ones

Call = Callable[..., Tensor]
# Runs a call without arguments once and gives its result, a fixed tensor, and what computes it anew in place.
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]


def placed(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The frozen module on its device, in channels-last order: convolutions in half precision want it on a GPU, and
    between convolutions and attention nothing has to be put into another order."""
    module = module.eval().requires_grad_(False).to(device, dtype)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Compiled:
    """call(*args) -> Tensor, by the fastest way that works. Results are the caller's own: nothing overwrites them.

    Arguments may be tensors, numbers, None, and tuples, lists, dicts and dataclasses of these. Everything but the
    tensors' values is fixed for a shape. mode: one of MODES; "auto" is all of it on a GPU, and eager on a CPU, where
    compiling takes a minute and gains little. backend: torch.compile's. capture: stands in for CUDA graphs in tests.
    Raises BadInputError for an unknown mode; what the call itself raises passes through.
    """

    def __init__(
        self,
        call: Call,
        device: torch.device,
        mode: Mode = "auto",
        *,
        backend: str = "inductor",
        max_shapes: int = MAX_SHAPES,
        capture: Capture | None = None,
    ):
        if mode not in MODES:
            raise BadInputError(f'unknown way to compile "{mode}": choose one of {", ".join(MODES)}')
        on_gpu = device.type == "cuda"
        wanted = ("compile+graphs" if on_gpu else "eager") if mode == "auto" else mode
        self._call, self._max_shapes = call, max_shapes
        self._reasons = ["asked for"] if mode != "auto" else ["a GPU" if on_gpu else "on a CPU compiling gains little"]
        self._compiled: Call | None = None
        if "compile" in wanted:
            # One graph or none: a break would cost more than it shows. Shapes are few and known, so none is symbolic.
            self._compiled = torch.compile(call, fullgraph=True, dynamic=False, backend=backend)
        self._capture: Capture | None = None
        if "graphs" in wanted:
            self._capture = capture or (_cuda_graph if on_gpu else None)
            if self._capture is None:
                self._note("CUDA graphs need a CUDA device")
        self._runs: dict[object, Call] = {}

    @property
    def mode(self) -> str:
        """What is in use: eager, compile, graphs or compile+graphs."""
        used = ["compile"] * (self._compiled is not None) + ["graphs"] * (self._capture is not None)
        return "+".join(used) or "eager"

    @property
    def why(self) -> str:
        """One line: who chose the mode, and what did not work."""
        return "; ".join(self._reasons)

    def __call__(self, *args: Any) -> Tensor:
        key = _signature(args)
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= self._max_shapes:
                self._note(f"more than {self._max_shapes} combinations of shapes: the others run eagerly")
                return self._call(*args)
            run = self._runs[key] = self._fastest(args)
        return run(*args)

    def _fastest(self, args: tuple[Any, ...]) -> Call:
        """The best that works for these shapes; a way that fails once is not tried again."""
        run = self._call
        if self._compiled is not None:
            try:
                self._compiled(*args)
                run = self._compiled
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler's own are many, and undocumented
                self._call(*args)  # where the fault is the caller's, this raises it
                self._compiled = None
                self._note(f"not compiled: {_line(error)}")
        if self._capture is not None and any(True for _ in _tensors(args)):
            try:
                return _Replayed(run, args, self._capture)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                run(*args)
                self._capture = None
                self._note(f"no CUDA graphs: {_line(error)}")
        return run

    def _note(self, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons.append(reason)
            log.warning("a network runs slower than it could", extra={"reason": reason})


class _Replayed:
    """One capture for one combination of shapes. It reads and writes its own tensors; arguments are copied in."""

    def __init__(self, run: Call, args: tuple[Any, ...], capture: Capture):
        self._inputs = [value.clone() for value in _tensors(args)]
        held = _with_tensors(args, iter(self._inputs))
        self._out, self._replay = capture(lambda: run(*held))

    def __call__(self, *args: Any) -> Tensor:
        torch._foreach_copy_(self._inputs, list(_tensors(args)))
        self._replay()
        return self._out.clone()


def _cuda_graph(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return out, graph.replay


def _parts(tree: Any) -> list[Any] | None:
    """What a container holds, in a fixed order; None for a leaf."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, field.name) for field in fields(tree)]
    if isinstance(tree, dict):
        return list(tree.values())
    return list(tree) if isinstance(tree, (tuple, list)) else None


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    for part in _parts(tree) or ():
        yield from _tensors(part)


def _with_tensors(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tree with other tensors, in the order of _tensors."""
    if isinstance(tree, Tensor):
        return next(tensors)
    parts = _parts(tree)
    if parts is None:
        return tree
    parts = [_with_tensors(part, tensors) for part in parts]
    if isinstance(tree, dict):
        return dict(zip(tree, parts, strict=True))
    if isinstance(tree, (tuple, list)):
        return type(tree)(parts)
    return replace(tree, **{field.name: part for field, part in zip(fields(tree), parts, strict=True)})


def moved(tree: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """The same arguments on another device; dtype: of what is floating point."""

    def one(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else None)

    return _with_tensors(tree, map(one, _tensors(tree)))


def _signature(tree: Any) -> object:
    """Equal for arguments that one capture can serve."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype, tree.device
    parts = _parts(tree)
    if parts is None:
        return tree
    names = tuple(tree) if isinstance(tree, dict) else type(tree)
    return names, tuple(map(_signature, parts))


def _line(error: Exception) -> str:
    """The compiler puts what it caught into its second line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([f"{type(error).__name__}:", *lines[:2]])[:300]
