"""The one place where attention is computed, and the two layers that every transformer block here is made of.

`attention` picks a kernel by name; all kernels compute the same function (tests hold them to it).
Module and parameter names follow the published SD 1.5 / AnimateDiff / Hallo checkpoints.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.errors import NotSupportedError

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return weights @ v


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if importlib.util.find_spec("xformers") is None:
        raise NotSupportedError('attention kernel "xformers" needs: pip install xformers')
    from xformers.ops import memory_efficient_attention

    out: Tensor = memory_efficient_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


KERNELS: dict[str, Kernel] = {"sdpa": _sdpa, "matmul": _matmul, "xformers": _xformers}


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, kernel: str = "sdpa") -> Tensor:
    """Scaled dot-product attention. q: (B, Lq, D); k, v: (B, Lk, D) -> (B, Lq, D). No mask, no dropout."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]  # (B, heads, L, D / heads)
    return KERNELS[kernel](*split).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Queries from x, keys and values from `context` (x itself when None). `extra` (B or 1, L, Dc) joins the context."""

    kernel = "sdpa"

    def __init__(self, width: int, heads: int, context_width: int | None = None, inner: int | None = None):
        super().__init__()
        self.heads = heads
        inner = inner or width
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width or width, inner, bias=False)
        self.to_v = nn.Linear(context_width or width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor, context: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        k, v = self.to_k(context), self.to_v(context)
        if extra is not None:  # projected before it is repeated: one row serves every frame
            k = torch.cat([k, repeat_rows(self.to_k(extra), k.shape[0])], 1)
            v = torch.cat([v, repeat_rows(self.to_v(extra), v.shape[0])], 1)
        out: Tensor = self.to_out[0](attention(self.to_q(x), k, v, self.heads, self.kernel))
        return out


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """(B, ...) -> (rows, ...): every row rows / B times in a row. Traces with a dynamic number of rows."""
    return x.unsqueeze(1).expand(-1, rows // x.shape[0], *x.shape[1:]).flatten(0, 1)


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated feed-forward; `net.1` is the checkpoints' dropout, which has no weights."""

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, width * factor), nn.Identity(), nn.Linear(width * factor, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x
