"""The linear part of the motion autoencoder: a weighted PCA of flow patches, closed form, symmetric left to right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.models.autoencoder import HOLE_GAIN, MotionBasis
from emo_live.training.frame_data import Shard
from emo_live.training.run import written
from emo_live.training.shards import as_motion

PART_GAINS = (8.0, 5.0, 1.5)  # mouth, eyes, face: how much more their flow counts than the rest ...
REST_GAIN = 0.3  # ... which counts so much


def fit_basis(shards: list[Shard]) -> tuple[MotionBasis, float]:
    """Returns the basis and the share of the weighted energy that it keeps."""
    basis = MotionBasis(TINY.autoencoder)
    size = 3 * basis.patch**2
    total = torch.zeros(size, size, dtype=torch.float64)
    gains = torch.tensor([1.0, 1.0, HOLE_GAIN])[:, None, None]
    for shard in shards:
        motion = as_motion(shard.motion) * gains
        patches = F.pixel_unshuffle(motion, basis.patch)
        weight = _cell_weights(shard.boxes, patches.shape[-1])
        rows = patches.permute(0, 2, 3, 1).flatten(0, 2).double()
        total += (rows * torch.from_numpy(weight).flatten()[:, None]).T @ rows / weight.sum()
    mirror = _mirror(basis.patch)
    total = (total + mirror @ total @ mirror.T) / (2 * len(shards))
    energy, vectors = torch.linalg.eigh(total)
    kept = basis.basis.shape[1]
    basis.basis.copy_(vectors.flip(1)[:, :kept])
    basis.scale.copy_(energy.flip(0)[:kept].sqrt())
    return basis, float(energy.flip(0)[:kept].sum() / energy.sum())


def _cell_weights(boxes: np.ndarray, cells: int) -> np.ndarray:
    """(N, 3, 4) boxes in shares -> (N, cells, cells) weights."""
    centres = (np.arange(cells) + 0.5) / cells
    weight = np.full((len(boxes), cells, cells), REST_GAIN)
    for part, gain in enumerate(PART_GAINS):
        box = boxes[:, part]
        middle, reach = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * 1.1 + 0.03
        across = ((centres - middle[:, :1]) / reach[:, :1])[:, None] ** 2
        down = ((centres - middle[:, 1:]) / reach[:, 1:])[:, :, None] ** 2
        weight += gain * np.exp(-0.75 * (across + down))
    return weight


def _mirror(patch: int) -> Tensor:
    """(3 patch^2, 3 patch^2) matrix that turns a patch into its mirror image: columns reversed, x flow negated."""
    size = 3 * patch**2
    unit = torch.eye(size, dtype=torch.float64).view(size, 3, patch, patch).flip(3)
    return (unit * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)[:, None, None]).reshape(size, size)


def mirror_signs(basis: MotionBasis) -> Tensor:
    """(C,) +1 or -1: what mirroring does to each latent channel, besides reversing the columns."""
    columns = basis.basis.double()
    return torch.diagonal(columns.T @ _mirror(basis.patch).T @ columns).sign().float()


def save_basis(basis: MotionBasis, path: Path) -> None:
    torch.save(basis.state_dict(), path)


def load_basis(path: Path) -> MotionBasis:
    basis = MotionBasis(TINY.autoencoder)
    basis.load_state_dict(torch.load(written(path, "basis"), map_location="cpu", weights_only=True))
    return basis
