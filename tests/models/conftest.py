"""Models with random weights everywhere, also where training starts from zeros, so that every path shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from emo_live.config import TINY  # noqa: E402
from emo_live.models.emo import TinyEmo  # noqa: E402


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        spread = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
        noise = torch.randn(value.shape, generator=generator) * spread
        value.data = 1 + noise if "norm" in name and name.endswith("weight") else noise


@pytest.fixture(scope="session")
def randomised() -> Callable[[nn.Module], nn.Module]:
    def ready(module: nn.Module) -> nn.Module:
        randomise(module)
        return module.eval().requires_grad_(False)

    return ready


@pytest.fixture(scope="session")
def tiny(randomised: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomised(TinyEmo(TINY))


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Normal numbers of a shape, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(shape, generator=generator)
