"""Head pose as a linear part of motion latents: what `--motion` scales. Least squares on the tracks, closed form."""

from __future__ import annotations

import numpy as np

from emo_live.config import TINY
from emo_live.training.motion_data import MotionData
from emo_live.types import Float32

LIVELY = 0.05  # share of lips and eyes in a cell at which it counts 1 / e: such cells say little about the head


def fit_pose(data: MotionData) -> tuple[Float32, Float32, float]:
    """basis (6, N): latents of a unit of yaw, pitch, roll (rad), x, y, z (cm). readout (N, 6): pose of latents. The
    share of the latents' energy outside lips and eyes that the basis explains. N = C h w."""
    weight = _calm(data)
    gram, cross = np.zeros((6, 6)), np.zeros((6, weight.size))
    for track in data.tracks:
        z, pose = _centred(track.z.reshape(len(track.z), -1)), _centred(track.pose)
        gram += pose.T @ pose
        cross += pose.T @ z
    basis = np.linalg.solve(gram, cross)
    readout = np.linalg.solve((basis * weight) @ basis.T, basis * weight).T
    left = []
    for track in data.tracks[:: max(1, len(data.tracks) // 50)]:
        z = _centred(track.z.reshape(len(track.z), -1))
        left.append(np.square((z - z @ readout @ basis) * weight).sum() / np.square(z * weight).sum())
    return basis.astype(np.float32), readout.astype(np.float32), 1 - float(np.mean(left))


def _calm(data: MotionData) -> np.ndarray:
    """(N,) weights: cells without lips and eyes."""
    a = TINY.autoencoder
    lively = np.mean([mask[1:3].sum(0) for mask in data.masks], 0)
    share = lively.reshape(a.latent_size, a.patch, a.latent_size, a.patch).mean((1, 3))
    return np.broadcast_to(np.exp(-share / LIVELY), (a.latent_channels, *share.shape)).reshape(-1)


def _centred(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    out: np.ndarray = x - x.mean(0)
    return out
