"""The plain motion model of engine/motion_prior.py in training: fitted on the tracks, and as a layer of buffers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import LIDS, POSE, TINY
from emo_live.engine.face_map import FaceMap, sample
from emo_live.engine.motion_prior import TAPS, FaceMotion, MotionPrior, raw_traits
from emo_live.models.autoencoder import HOLE_GAIN, MotionBasis
from emo_live.models.hearing import HEARD, UNHEARD
from emo_live.training.motion_data import MotionData, Track
from emo_live.training.shards import save_small
from emo_live.types import Float32

EVERY = 8  # frames between those that are fitted to
SOME = 6  # tracks between those whose deviations are measured
RIDGE = 1e-3  # of the causes' weights, as a share of the energy of each
DOUBT = 0.01  # by which ARKit weights are off: what seldom moves more than that must not move a face much
TRIFLE_PX = 0.01  # of the flow's own pixels
LIDS_GAIN = 1.3  # the mean of many faces' lids is blurred, and closes an eye by two thirds
MOST_MEMORY = 0.95  # of noise, a frame
POINTS = 100  # landmarks that carry expressions
# Eyes and lips among the 478 FaceLandmarker points.
FINE_POINTS = (
    *(33, 133, 159, 145, 158, 153, 160, 144, 157, 154, 161, 163),
    *(362, 263, 386, 374, 385, 380, 387, 373, 384, 381, 388, 390),
    *(61, 291, 0, 17, 13, 14, 78, 308, 37, 267, 84, 314, 82, 312, 87, 317, 40, 270, 91, 321, 80, 310, 88, 318),
)


def fit_prior(data: MotionData, basis: MotionBasis, path: Path, seed: int = 0) -> dict[str, float]:
    """Writes the prior's file. Returns the shares of the visible motion that components keep, and that is foretold when
    the true mouth shapes are given."""
    torch.manual_seed(seed)
    gains, unit, kept = fit_components(data, basis)
    raw = np.stack([raw_traits(outline) for outline in data.outlines])
    points = spread_points(data.outlines)
    stored = rounded_rows("basis", unit) | {
        "gains": gains,
        "shape": np.array((TINY.autoencoder.latent_channels, *[TINY.autoencoder.latent_size] * 2)),
        "points": points,
        "mean_face": np.mean(data.outlines, 0)[points].astype(np.float32),
        **patch_arrays(basis),
        "trait_mean": raw.mean(0),
        "trait_scale": raw.std(0) + 1e-6,
    }
    stored |= {  # nothing moves yet: each part is fitted on what the ones before leave
        "head": np.zeros((POSE * (raw.shape[1] + 1), len(unit)), np.float32),
        "fields": np.zeros(
            (UNHEARD.stop + HEARD.stop - HEARD.start + 1, 3, *[TINY.autoencoder.flow_size] * 2), np.float32
        ),
        "spread": np.ones(len(unit), np.float32),
        "decay": np.zeros(len(unit), np.float32),
    }

    def so_far() -> MotionPrior:
        """As it is loaded, rounding and all."""
        save_small(path, **stored)
        return MotionPrior.load(path)

    stored["head"] = fit_head(data, so_far())
    fields = fit_fields(data, so_far())
    fields[LIDS] *= LIDS_GAIN
    stored |= rounded_rows("fields", without_trifles(fields, np.concatenate([t.arkit for t in data.tracks]).std(0)))
    measured, foretold = fit_noise(data, so_far())
    save_small(path, **stored | measured)
    return {"kept": kept, "foretold": foretold}


def spread_points(outlines: list[Float32]) -> np.ndarray:
    """(POINTS,) indices of landmarks: those of eyes and lips, then always the one that is farthest from all others."""
    mean, chosen = np.mean(outlines, 0), list(FINE_POINTS)
    apart = np.linalg.norm(mean[:, None] - mean[None, chosen], axis=2).min(1)
    while len(chosen) < POINTS:
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.linalg.norm(mean - mean[chosen[-1]], axis=1))
    return np.array(chosen)


def patch_arrays(basis: MotionBasis) -> dict[str, np.ndarray]:
    """patch and unpatch of the prior: the basis with its gains."""
    columns, scale = basis.basis.numpy(), basis.scale.numpy()
    gains = np.repeat([1.0, 1.0, HOLE_GAIN], basis.patch**2)[:, None]
    return {
        "patch": (columns * gains / scale).astype(np.float32),
        "unpatch": (columns / gains * scale).T.astype(np.float32),
    }


def fit_head(data: MotionData, prior: MotionPrior) -> Float32:
    """(P POSE, K): least squares together with the expressions, which are forgotten."""
    given, wanted = [], []
    for track in data.tracks:
        traits, part = prior.traits(data.outlines[track.portrait]), slice(None, None, EVERY)
        causes = np.concatenate([track.pose, track.arkit, np.ones((len(track.z), 1))], 1)[part]
        given.append((traits[None, :, None] * causes[:, None]).astype(np.float32))
        wanted.append(track.z[part].reshape(len(causes), -1).astype(np.float32) @ prior.readout)
    rows = np.concatenate(given)
    head, rest = rows[..., :POSE], rows[..., POSE:]
    flat = np.concatenate([head.reshape(len(rows), -1), rest.reshape(len(rows), -1)], 1)
    return _ridge([flat], [np.concatenate(wanted)])[: head[0].size]


def fit_fields(data: MotionData, prior: MotionPrior) -> Float32:
    """(E + 1, 3, S, S): motion without that of the head, seen on the mean face, follows from the ARKit weights."""
    size = prior.fields.shape[-1]
    pixels = np.arange(size, dtype=np.float32)
    maps = [FaceMap(prior.mean_face, outline[prior.points.astype(int)], size) for outline in data.outlines]
    features = len(prior.fields)
    gram, cross = np.zeros((features, features)), np.zeros((features, 3 * size * size))
    for track in data.tracks:
        z = track.z[::EVERY].astype(np.float32)
        moved, turned = prior.decode(z), _turned(prior, data, track)[::EVERY]
        moved[:, :2] -= turned
        back = -turned
        for _ in range(2):  # where a pixel of the turned head has come from, by its own flow there
            back = -sample(turned, pixels + back[:, 0], pixels[:, None] + back[:, 1])
        still = sample(moved, pixels + back[:, 0], pixels[:, None] + back[:, 1])
        weights = np.concatenate([track.arkit[::EVERY], np.ones((len(z), 1), np.float32)], 1)
        gram += weights.T @ weights
        cross += weights.T @ maps[track.portrait].carry(still).reshape(len(z), -1)
    doubt = np.full(features, gram[-1, -1] * DOUBT**2)
    doubt[-1] = 0
    return _solved(gram + np.diag(doubt), cross).reshape(prior.fields.shape)


def without_trifles(fields: Float32, spread: Float32) -> Float32:
    """(E + 1, 3, S, S) without weights that hardly ever move, and without motion that nobody sees; spread: (E,)."""
    kept = fields.copy()
    kept[:-1][spread < DOUBT] = 0
    kept[:-1][2 * spread[:, None, None, None] * np.abs(kept[:-1]) < TRIFLE_PX] = 0
    return kept


def _turned(prior: MotionPrior, data: MotionData, track: Track) -> Float32:
    """(T, 2, S, S) flow of the head's pose."""
    traits = prior.traits(data.outlines[track.portrait])
    causes = (traits[None, :, None] * track.pose[:, None]).reshape(len(track.z), -1)
    return prior.decode(prior.latents(causes @ prior.head))[:, :2]


def fit_noise(data: MotionData, prior: MotionPrior) -> tuple[dict[str, np.ndarray], float]:
    """spread and decay of what is left, and the share of the visible motion that is foretold."""
    faces: dict[int, FaceMotion] = {}
    left, moved = [], []
    for track in data.tracks[::SOME]:
        face = faces.setdefault(track.portrait, FaceMotion(prior, data.outlines[track.portrait]))
        anchor = face.anchor(track.arkit[:, HEARD], data.gestures(track).numpy())
        z = track.z.reshape(len(anchor), -1).astype(np.float32) @ prior.readout
        left.append(z - anchor.reshape(len(z), -1) @ prior.readout)
        moved.append(z)
    rest, every = np.concatenate(left), np.concatenate(moved)
    before, after = (np.concatenate([c[part] for c in left]) for part in (slice(-1), slice(1, None)))
    decay = np.clip((before * after).mean(0) / (before**2).mean(0), 0, MOST_MEMORY)
    pixels = np.square(prior.unpatch).sum(1).repeat(prior.shape[1] * prior.shape[2])
    visible = np.square(prior.basis) @ pixels
    foretold = float(1 - (np.square(rest) @ visible).sum() / (np.square(every) @ visible).sum())
    spread = np.sqrt(np.square(rest).mean(0))
    return {"spread": spread.astype(np.float32), "decay": decay.astype(np.float32)}, foretold


def rounded_rows(name: str, rows: Float32) -> dict[str, np.ndarray]:
    """(..., N) as 8-bit integers and the scale of each row."""
    scale = np.abs(rows).max(-1, keepdims=True) / 127 + 1e-12
    return {name: np.round(rows / scale).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}


def fit_components(data: MotionData, basis: MotionBasis) -> tuple[Float32, Float32, float]:
    """gains (N,), latents of a unit of each component (K, N), share kept: a PCA weighted by what is visible."""
    count = TINY.components
    gains = basis.scale.sqrt().repeat_interleave(TINY.autoencoder.latent_size**2)
    rows = torch.cat([torch.from_numpy(track.z[::EVERY].astype(np.float32)) for track in data.tracks])
    rows = torch.cat([rows, rows.flip(-1) * data.signs]).flatten(1) * gains  # mirrored faces move as well
    _, spread, directions = torch.svd_lowrank(rows, count + 32, niter=4)
    spread, directions = spread[:count] / len(rows) ** 0.5, directions[:, :count]
    kept = float(spread.square().sum() * len(rows) / rows.square().sum())
    return gains.numpy(), (directions.T * spread[:, None] / gains).numpy(), kept


def _ridge(given: list[Float32], wanted: list[Float32]) -> Float32:
    """(T, F) and (T, K) of every track -> (F, K)."""
    features = given[0].shape[1]
    gram, cross = np.zeros((features, features)), np.zeros((features, wanted[0].shape[1]))
    for x, y in zip(given, wanted, strict=True):
        gram += x.T @ x
        cross += x.T @ y
    return _solved(gram, cross)


def _solved(gram: np.ndarray, cross: np.ndarray) -> Float32:
    """Ridge regression; every cause is calmed by the same share, whatever its unit."""
    calm = np.diag(gram).copy()
    return np.asarray(np.linalg.solve(gram + np.diag(RIDGE * calm + 1e-6 * calm.mean()), cross), np.float32)


class PriorLayer(nn.Module):
    """In full precision always: what it does is to take errors away. Methods as in MotionPrior, for batches.

    Fields of faces are kept, half as precise: a face costs 5 MB.
    """

    basis: Tensor
    readout: Tensor
    head: Tensor
    patch: Tensor
    unpatch: Tensor
    noise_basis: Tensor
    filters: Tensor
    signs: Tensor

    def __init__(self, prior: MotionPrior):
        super().__init__()
        for name in ("basis", "readout", "head", "patch", "unpatch"):
            self.register_buffer(name, torch.from_numpy(getattr(prior, name)), persistent=False)
        self.register_buffer("noise_basis", torch.from_numpy(prior.noise_basis()), persistent=False)
        self.register_buffer("filters", torch.from_numpy(prior.filters()), persistent=False)
        self.prior, self.scale, self.side = prior, prior.scale, TINY.autoencoder.patch
        squares = self.unpatch.view(-1, 3, self.side, self.side)
        mirrored = squares.flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
        signs = (squares * mirrored).sum((1, 2, 3)).sign()[:, None, None]  # of the channels of a mirrored face
        self.register_buffer("signs", signs, persistent=False)
        self._faces: dict[bytes, tuple[Tensor, Tensor]] = {}

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, C, h, w) -> the same without what no face does."""
        with torch.autocast(z.device.type, enabled=False):
            return (z.float().flatten(2) @ self.readout @ self.basis).view_as(z)

    def _face(self, outline: Tensor) -> tuple[Tensor, Tensor]:
        """(478, 2) -> traits (P,) and fields (E + 1, 3 S S), half floats."""
        points = outline.cpu().numpy()
        if (key := points.tobytes()) not in self._faces:
            fields = torch.from_numpy(self.prior.expressions(points)).flatten(1).half()
            self._faces[key] = (
                torch.from_numpy(self.prior.traits(points)).to(outline.device),
                fields.to(outline.device),
            )
        return self._faces[key]

    def anchor(self, shapes: Tensor, gestures: Tensor, outlines: Tensor) -> Tensor:
        """(B, T, S) shapes, (B, T, G) gestures, (B, 478, 2) landmarks -> (B, T, C, h, w)."""
        with torch.autocast(gestures.device.type, enabled=False):
            pose, rest = gestures[..., -POSE:], torch.ones_like(gestures[..., :1])
            weights = torch.cat([gestures[..., :-POSE], shapes.float(), rest], -1)
            faces = [self._face(outline) for outline in outlines]
            head = torch.einsum("bp,pqk->bqk", torch.stack([f[0] for f in faces]), self.head.unflatten(0, (-1, POSE)))
            shape = (*pose.shape[:2], *self.prior.shape)
            turned = self._decode((pose @ head @ self.basis).view(shape))[:, :2]
            size = turned.shape[-1]
            still = torch.cat([row @ face[1].float() for row, face in zip(weights, faces, strict=True)])
            moved = F.grid_sample(
                still.view(-1, 3, size, size), _places(turned), padding_mode="border", align_corners=False
            )
            moved = torch.cat([moved[:, :2] + turned, moved[:, 2:]], 1)
            latents = torch.einsum("bphw,pc->bchw", F.pixel_unshuffle(moved, self.side), self.patch)
            return self(latents.view(shape))

    def _decode(self, z: Tensor) -> Tensor:
        """(B, T, C, h, w) -> (B T, 3, S, S)."""
        return F.pixel_shuffle(torch.einsum("bchw,cp->bphw", z.flatten(0, 1), self.unpatch), self.side)

    def white(self, size: int, frames: int) -> Tensor:
        """(B, frames, K) white noise of components."""
        return torch.randn(size, frames, len(self.basis), device=self.basis.device)

    def noise(self, white: Tensor, shape: torch.Size) -> Tensor:
        """(B, TAPS - 1 + T, K) white noise -> (B, T, C, h, w) noise with a past; shape: (C, h, w)."""
        frames = white.shape[1] - TAPS + 1
        band = white.new_zeros(len(self.basis), frames, white.shape[1])
        for t in range(frames):
            band[:, t, t : t + TAPS] = self.filters
        return (torch.einsum("kts,bsk->btk", band, white) @ self.noise_basis).unflatten(2, shape)


def _places(flow: Tensor) -> Tensor:
    """(N, 2, S, S) flow in px -> the grid that grid_sample wants."""
    centres = torch.arange(flow.shape[-1], device=flow.device) + 0.5
    grid = torch.stack([centres + flow[:, 0], centres[:, None] + flow[:, 1]], -1)
    return grid * (2 / flow.shape[-1]) - 1
