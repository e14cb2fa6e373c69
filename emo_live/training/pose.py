"""Head pose as a linear part of motion latents: what `motion` scales. Least squares on the tracks, closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emo_live.config import TINY
from emo_live.engine.locator_mask import locator_mask
from emo_live.types import Float32


def fit_pose(folder: Path, points: dict[str, np.ndarray]) -> tuple[Float32, Float32, float]:
    """basis (6, N): latents of a unit of yaw, pitch, roll (rad), x, y, z (cm); readout (N, 6): pose of latents; and the share
    of the latents' energy outside lips and eyes that the basis explains. N = C h w."""
    gram = np.zeros((6, 6))
    cross: np.ndarray | float = 0.0
    tracks = []
    for path in sorted(folder.glob("*.npz")):
        data = np.load(path)
        if str(data["split"]) != "train":
            continue
        z = data["z"][0].astype(np.float32).reshape(len(data["z"][0]), -1)
        pose = data["pose"][0].astype(np.float64)
        z, pose = z - z.mean(0), pose - pose.mean(0)
        gram += pose.T @ pose
        cross = cross + pose.T @ z
        tracks.append((z, pose))
    basis = np.linalg.solve(gram, np.asarray(cross))
    a = TINY.autoencoder
    lively = np.mean([locator_mask(p, 128)[1:3].sum(0).reshape(16, 8, 16, 8).mean((1, 3)) for p in points.values()], 0)
    calm = np.exp(-lively / 0.05)  # cells that speech and blinks move say little about the head
    weight = np.broadcast_to(calm, (a.latent_channels, *calm.shape)).reshape(-1)
    readout = (np.linalg.solve((basis * weight) @ basis.T, basis * weight)).T
    kept = [np.square((z - z @ readout @ basis) * weight).sum() / np.square(z * weight).sum() for z, _ in tracks]
    return basis.astype(np.float32), readout.astype(np.float32), 1 - float(np.mean(kept))
