"""Random weights that were drawn from a seed, drawn again.

Matrices are N(0, 1 / fan in), weights of norms 1 + 0.2 N, biases 0.1 N, one tensor after the other from torch's CPU
generator, rounded to float16. Position codes are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SEEDS = {"hallo/net_tiny": 1234}


def draw(seed: int, names: Iterable[str], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Name -> float16 weights. The order of `names` counts."""
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name in names:
        noise = torch.randn(shapes[name], generator=generator)
        if noise.ndim > 1:
            value = noise / noise[0].numel() ** 0.5
        else:
            value = 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
        drawn[name] = value.half()
    return drawn


def first_values(weights: Mapping[str, Tensor]) -> Tensor:
    """One number of each tensor: what the drawing is recognised by."""
    return torch.stack([value.flatten()[0] for value in weights.values()])
