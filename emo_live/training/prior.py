"""The linear motion model of engine/motion_prior.py in training: fitted on the tracks, and as a layer of buffers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from emo_live.config import TINY
from emo_live.engine.motion_prior import TAPS, MotionPrior, products, scaled_traits
from emo_live.models.autoencoder import MotionBasis
from emo_live.models.hearing import HEARD, Hearing
from emo_live.training.motion_data import MotionData, Track
from emo_live.training.shards import save_small
from emo_live.types import Float32

EVERY = 6  # frames between those that the components are fitted on
MISTRUST = 0.02  # noise in motion frames, as a share of their energy: without it small errors would be extrapolated
RIDGE = 1e-3  # of the shapes' weights, as a share of their mean energy
HEARD_GAIN = 1.5  # a fit to noisy speech moves lips too little: they open half as far as in the data without it
ROUNDS = 3  # of fitting memory and hearing in turn
MOST_MEMORY = 0.95  # of noise, a frame
SPAN = TINY.prior.frames


def fit_prior(data: MotionData, basis: MotionBasis, hearing: Hearing, path: Path, seed: int = 0) -> dict[str, float]:
    """Writes the prior's file. Returns the shares of the motion that it explains, 1 and SPAN frames ahead."""
    torch.manual_seed(seed)
    gains, unit, readout = fit_components(data, basis)
    raw = np.stack(data.traits)
    mean, scale = raw.mean(0), raw.std(0) + 1e-6
    windows = [
        _windows(data, track, hearing, readout, scaled_traits(raw[track.portrait], mean, scale))
        for track in data.tracks
    ]
    past, future, sound, causes = (np.concatenate([w[i] for w in windows]) for i in range(4))
    ahead = np.zeros((SPAN, past.shape[1], past.shape[2]), np.float32)
    heard = np.zeros((SPAN, sound.shape[2], past.shape[2]), np.float32)
    for _ in range(ROUNDS):
        for k in range(SPAN):
            ahead[k] = _memory(past, future[:, k] - sound[:, k] @ heard[k])
            heard[k] = _ridge(sound[:, k], future[:, k] - (past * ahead[k]).sum(1))
    left = np.stack([future[:, k] - (past * ahead[k]).sum(1) - sound[:, k] @ heard[k] for k in range(SPAN)], 1)
    causes = causes / (causes.std((0, 1)) + 1e-6)
    # Heads, brows and lids are varied; lips follow what is heard.
    spread = np.stack([(causes[:, k] @ _ridge(causes[:, k], left[:, k])).std(0) for k in range(SPAN)])
    decay = np.clip((past[:, -1] * past[:, -2]).mean(0) / (past[:, -1] ** 2).mean(0), 0, MOST_MEMORY)
    shape = (TINY.autoencoder.latent_channels, *[TINY.autoencoder.latent_size] * 2)
    save_small(
        path,
        **rounded_rows("basis", unit),
        gains=gains,
        shape=np.array(shape),
        ahead=ahead,
        **rounded_rows("heard", heard),
        spread=spread.astype(np.float32),
        decay=decay.astype(np.float32),
        trait_mean=mean,
        trait_scale=scale,
    )
    share = 1 - left.var((0, 2)) / future.var((0, 2))
    return {"next": float(share[0]), "last": float(share[-1])}


def rounded_rows(name: str, rows: Float32) -> dict[str, np.ndarray]:
    """(..., N) as 8-bit integers and the scale of each row."""
    scale = np.abs(rows).max(-1, keepdims=True) / 127 + 1e-12
    return {name: np.round(rows / scale).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}


def ship_prior(source: Path, target: Path) -> None:
    """The prior as it ships: lips follow what is heard HEARD_GAIN times as far."""
    with np.load(source, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    save_small(target, **{**stored, "heard_scale": stored["heard_scale"] * np.float32(HEARD_GAIN)})


def fit_components(data: MotionData, basis: MotionBasis) -> tuple[Float32, Float32, Float32]:
    """gains (N,), latents of a unit of each component (K, N), readout (N, K): a PCA weighted by what is visible."""
    count = TINY.prior.components
    gains = basis.scale.sqrt().repeat_interleave(TINY.autoencoder.latent_size**2)
    rows = torch.cat([torch.from_numpy(track.z[::EVERY].astype(np.float32)) for track in data.tracks])
    rows = torch.cat([rows, rows.flip(-1) * data.signs]).flatten(1) * gains  # mirrored faces move as well
    _, spread, directions = torch.svd_lowrank(rows, count + 32, niter=4)
    spread, directions = spread[:count] / len(rows) ** 0.5, directions[:, :count]
    kept = float(spread.square().sum() * len(rows) / rows.square().sum())
    print(f"{count} components keep {kept:.4f} of the visible energy", flush=True)
    return (
        gains.numpy(),
        (directions.T * spread[:, None] / gains).numpy(),
        (directions * gains[:, None] / spread).numpy(),
    )


@torch.no_grad()
def _windows(
    data: MotionData, track: Track, hearing: Hearing, readout: Float32, traits: Float32
) -> tuple[Float32, ...]:
    """Of every window: components of the motion frames (W, n, K) and of its frames (W, L, K), what is heard (W, L, F),
    pose and upper face now and in the last motion frame (W, L, Q)."""
    n = TINY.emo.motion_frames
    c = track.z.reshape(len(track.z), -1).astype(np.float32) @ readout
    starts = list(range(n + n % 2, len(c) - SPAN + 1, 4))
    variant = len(track.name) % len(track.features)  # some clean, some noisy: noisy speech must not move lips less
    features = torch.stack([data.window(track, s, SPAN, variant)["features"] for s in starts])
    shapes = hearing(features).numpy()
    sound = np.stack([products(row, traits) for row in shapes])
    unheard = np.concatenate([track.pose, track.arkit[:, : HEARD.start]], 1).astype(np.float32)
    changes = [np.concatenate([unheard[s : s + SPAN], np.repeat(unheard[s - 1 : s], SPAN, 0)], 1) for s in starts]
    causes = np.stack(changes)
    return np.stack([c[s - n : s] for s in starts]), np.stack([c[s : s + SPAN] for s in starts]), sound, causes


def _memory(past: Float32, future: Float32) -> Float32:
    """(W, n, K) and (W, K) -> (n, K) weights, each component from its own past."""
    gram, cross = np.einsum("wak,wbk->kab", past, past), np.einsum("wak,wk->ka", past, future)
    ridge = MISTRUST * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(past.shape[1])
    return np.asarray(np.linalg.solve(gram + ridge, cross[..., None])[..., 0].T, np.float32)


def _ridge(given: Float32, wanted: Float32) -> Float32:
    """(W, F) and (W, K) -> (F, K)."""
    gram = given.T.astype(np.float64) @ given
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram, given.T @ wanted), np.float32)


class PriorLayer(nn.Module):
    """In full precision always: what it does is to take errors away. Methods as in MotionPrior, for batches."""

    basis: Tensor
    readout: Tensor
    ahead: Tensor
    heard: Tensor
    spread: Tensor
    filters: Tensor
    trait_mean: Tensor
    trait_scale: Tensor

    def __init__(self, prior: MotionPrior):
        super().__init__()
        for name in ("basis", "readout", "ahead", "heard", "spread", "trait_mean", "trait_scale"):
            self.register_buffer(name, torch.from_numpy(getattr(prior, name)), persistent=False)
        self.register_buffer("filters", torch.from_numpy(prior.filters()), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, C, h, w) -> the same without what no face does."""
        with torch.autocast(z.device.type, enabled=False):
            return (z.float().flatten(2) @ self.readout @ self.basis).view_as(z)

    def anchor(self, motion: Tensor, shapes: Tensor, traits: Tensor) -> Tensor:
        """(B, n, C, h, w) motion frames, (B, T, S) shapes, (B, P - 1) raw traits -> (B, T, C, h, w)."""
        frames = shapes.shape[1]
        with torch.autocast(motion.device.type, enabled=False):
            components = motion.float().flatten(2) @ self.readout
            whole = torch.cat([shapes.float(), shapes.new_ones(*shapes.shape[:2], 1).float()], 2)
            normal = ((traits - self.trait_mean) / self.trait_scale).clamp(-3, 3)
            traits = torch.cat([torch.ones_like(normal[:, :1]), normal], 1)
            sound = (traits[:, None, :, None] * whole[:, :, None]).flatten(2)
            foretold = (self.ahead[:frames] * components[:, None]).sum(2)
            foretold = foretold + torch.einsum("btf,tfk->btk", sound, self.heard[:frames])
            return (foretold @ self.basis).unflatten(2, motion.shape[2:])

    def deviation(self, noise: Tensor) -> Tensor:
        with torch.autocast(noise.device.type, enabled=False):
            components = noise.float().flatten(2) @ self.readout
            return (components * self.spread[: noise.shape[1]] @ self.basis).view_as(noise)

    def white(self, size: int, frames: int) -> Tensor:
        """(B, frames, K) white noise of components."""
        return torch.randn(size, frames, len(self.basis), device=self.basis.device)

    def noise(self, white: Tensor, shape: torch.Size) -> Tensor:
        """(B, TAPS - 1 + T, K) white noise -> (B, T, C, h, w) noise with a past; shape: (C, h, w)."""
        frames = white.shape[1] - TAPS + 1
        band = white.new_zeros(len(self.basis), frames, white.shape[1])
        for t in range(frames):
            band[:, t, t : t + TAPS] = self.filters
        return (torch.einsum("kts,bsk->btk", band, white) @ self.basis).unflatten(2, shape)
