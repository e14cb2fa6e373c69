"""The one place where attention is computed, and the layer that calls it.

`attention` picks a kernel by name; all kernels compute the same function, which a test holds them to. Every layer has
its own choice, so that models in one process do not disturb each other. It knows nothing of what attends to what:
reference-attention, audio-attention and temporal attention are built on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.errors import BadInputError, NotSupportedError

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v: (B, heads, L, D / heads) -> like q


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return weights @ v


def _memory_efficient() -> Kernel:
    try:
        from xformers.ops import memory_efficient_attention
    except ModuleNotFoundError as error:
        raise NotSupportedError('attention kernel "xformers" needs: pip install xformers') from error
    kernel: Kernel = memory_efficient_attention
    return kernel


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _memory_efficient()(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


KERNELS: dict[str, Kernel] = {"sdpa": _sdpa, "matmul": _matmul, "xformers": _xformers}


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, kernel: str = "sdpa") -> Tensor:
    """Scaled dot-product attention. q: (B, Lq, D); k, v: (B, Lk, D) -> (B, Lq, D). No mask, no dropout."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]  # (B, heads, L, D / heads)
    return KERNELS[kernel](*split).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention with the parameter names of published SD 1.5 checkpoints.

    x: (B, L, D) asks; `context` (B, Lc, Dc) answers, x itself when None. `extra` (1, B / T or B rows, Le, Dc) joins the
    context: one row of it serves as many neighbouring rows of x as there are for it (the reference, for every frame).
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.kernel = "sdpa"
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width or width, width, bias=False)
        self.to_v = nn.Linear(context_width or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        k, v = self.to_k(context), self.to_v(context)
        if extra is not None:  # projected before it is repeated
            k = torch.cat([k, repeat_rows(self.to_k(extra), k.shape[0])], 1)
            v = torch.cat([v, repeat_rows(self.to_v(extra), v.shape[0])], 1)
        out: Tensor = self.to_out[0](attention(self.to_q(x), k, v, self.heads, self.kernel))
        return out


def choose_kernel(model: nn.Module, kernel: str) -> None:
    """All attention layers of a model use this kernel from now on. Raises BadInputError and NotSupportedError."""
    if kernel not in KERNELS:
        raise BadInputError(f'unknown attention kernel "{kernel}": choose one of {", ".join(KERNELS)}')
    if kernel == "xformers":
        _memory_efficient()  # says what is missing now, not in the first window
    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.kernel = kernel


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """(B, ...) -> (rows, ...): every row rows / B times in a row. Traces with a dynamic number of rows."""
    return x.unsqueeze(1).expand(-1, rows // x.shape[0], *x.shape[1:]).flatten(0, 1)
