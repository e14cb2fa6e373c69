"""Changes of low rank to weights that are else frozen (LoRA, arXiv 2106.09685): those of the spatial attention.

As a parametrisation of torch, so that the weights that the network sees are the sum, and folding leaves plain weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from emo_live.models.backbone import SpatialBlock

NAME = "parametrizations.weight.0."  # torch's, in the names of what is trained


class LowRank(nn.Module):
    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(weight.new_empty(rank, columns).normal_(0, columns**-0.5))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_low_rank(network: nn.Module, rank: int) -> None:
    """To the self-attention, which reads the reference as well, of every spatial layer."""
    for block in network.modules():
        if isinstance(block, SpatialBlock):
            for linear in [part for part in block.attn1.modules() if isinstance(part, nn.Linear)]:
                parametrize.register_parametrization(linear, "weight", LowRank(linear.weight.detach(), rank))


def fold_low_rank(network: nn.Module) -> None:
    """Plain weights again, with the changes in them."""
    for part in list(network.modules()):
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
