"""Draws training data with the puppets: frames with exact flow for the autoencoder, tracks of motion for diffusion.

frames/NAME.npz, one portrait each: frames (N, 256, 256, 3) uint8; motion (N, 128, 128, 3) float16, backward flow x, y
in shares of the side and hole; mouth (N, S, S, 3) uint8, a square of the 512 px picture; origin (2,) its corner; boxes
(N, 3, 4) of mouth, eyes, face in shares; portrait (512, 512, 3) uint8; outline (478, 2) in shares; incisors, the x in
px between the upper two in the 512 px portrait.
tracks/NAME.npz, one portrait each: portrait (256, 256, 3), outline, names of the performances, and per performance k:
z{k} (T, C, h, w) float16 motion latents, pose{k} (T, 6), arkit{k} (T, 52), silent{k} (T,).
Portraits are drawn in a slightly different crop each, because a user's crop is never exactly ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emo_live.engine.pictures import MOUTH_SIZE, PORTRAIT_SIZE, mouth_origin
from emo_live.models.autoencoder import MotionBasis
from emo_live.training.pack import Pack
from emo_live.training.performance import perform, talker_motion
from emo_live.training.puppets import PuppetTheatre, View

MARGIN = 12  # px that the rendered mouth square is larger on each side, so that training can move it
EVENTS = 0.5  # share of frames picked for an open mouth, round lips or closed lids
BATCH = 64


def random_view(random: np.random.Generator) -> View:
    scale = float(random.uniform(0.93, 1.07))
    spare = 1 - 1 / scale
    left, top = (spare / 2 + float(random.uniform(-0.025, 0.025)) for _ in range(2))
    return View(scale, left, top)


def zoomed(view: View, origin: tuple[int, int], side: int) -> View:
    """What a square of the 512 px picture of `view` shows."""
    x, y = (v / PORTRAIT_SIZE / view.scale for v in origin)
    return View(view.scale * PORTRAIT_SIZE / side, view.left + x, view.top + y)


def eventful(arkit: np.ndarray, names: tuple[str, ...], random: np.random.Generator) -> int:
    """Index of a frame with something rare in it: wide jaw, pucker or funnel, smile, closed lids."""
    kinds = (("jawOpen",), ("mouthPucker", "mouthFunnel"), ("mouthSmileLeft", "mouthStretchLeft"), ("eyeBlinkLeft",))
    wanted = kinds[int(random.integers(len(kinds)))]
    strength = arkit[:, [names.index(name) for name in wanted]].sum(1)
    best = np.argsort(strength)[-max(3, len(arkit) // 12) :]
    return int(random.choice(best))


def draw_frames(
    pack: Pack, theatre: PuppetTheatre, portrait: str, clips: Sequence[str], out: Path, *, count: int, seed: int
) -> None:
    """Writes out/NAME.npz with `count` frames."""
    random = np.random.default_rng([seed, *portrait.encode()])
    theatre.cast(portrait)
    view = random_view(random)
    outline = theatre.outline(view)
    side = MOUTH_SIZE + 2 * MARGIN
    x, y = (int(v) for v in np.clip(np.array(mouth_origin(outline)) - MARGIN, 4, PORTRAIT_SIZE - side - 4))
    rows: dict[str, list[Any]] = {"frames": [], "motion": [], "mouth": [], "boxes": []}
    for _ in range(count):
        weights, poses = talker_motion(pack, clips[int(random.integers(len(clips)))])
        rare = random.random() < EVENTS
        i = eventful(weights, pack.arkit_names, random) if rare else int(random.integers(len(weights)))
        arkit, pose = weights[i], poses[i]
        rows["frames"].append(theatre.picture(arkit, pose, 256, view))
        rows["motion"].append(theatre.motion(arkit, pose, view).astype(np.float16))
        rows["mouth"].append(theatre.picture(arkit, pose, side, zoomed(view, (x, y), side)))
        rows["boxes"].append(theatre.boxes(arkit, pose, view).astype(np.float32))
    save(
        out / f"{portrait}.npz",
        **{name: np.stack(values) for name, values in rows.items()},
        origin=np.array([x, y]),
        incisors=np.array(theatre.incisors(view)[0] * PORTRAIT_SIZE),
        portrait=theatre.reference(PORTRAIT_SIZE, view),
        outline=outline.astype(np.float32),
    )


def draw_tracks(
    pack: Pack,
    theatre: PuppetTheatre,
    portrait: str,
    performances: Sequence[str],
    basis: MotionBasis,
    out: Path,
    *,
    seed: int,
) -> None:
    """Writes out/NAME.npz with the motion latents of whole performances."""
    random = np.random.default_rng([seed, 1, *portrait.encode()])
    theatre.cast(portrait)
    view = random_view(random)
    arrays: dict[str, np.ndarray] = {}
    for k, name in enumerate(performances):
        show = perform(pack, name)
        motion = [theatre.motion(a, p, view).astype(np.float16) for a, p in zip(show.arkit, show.pose, strict=True)]
        arrays[f"z{k}"] = to_latents(basis, np.stack(motion))
        arrays |= {f"pose{k}": show.pose, f"arkit{k}": show.arkit, f"silent{k}": show.silent}
    save(
        out / f"{portrait}.npz",
        names=np.array(list(performances)),
        portrait=theatre.reference(256, view),
        outline=theatre.outline(view).astype(np.float32),
        **arrays,
    )


@torch.no_grad()
def to_latents(basis: MotionBasis, motion: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) flow in shares of the side and hole -> (T, C, h, w) float16."""
    parts = []
    for start in range(0, len(motion), BATCH):
        parts.append(basis.encode(as_motion(motion[start : start + BATCH])).half())
    return torch.cat(parts).numpy()


def as_motion(labels: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) labels -> (N, 3, H, W) float32: flow in px of H, hole."""
    x = torch.from_numpy(np.asarray(labels, np.float32)).permute(0, 3, 1, 2)
    return x * torch.tensor([x.shape[-1], x.shape[-1], 1.0])[:, None, None]


def save(path: Path, **arrays: np.ndarray) -> None:
    """A whole file or none."""
    _write(path, np.savez, arrays)


def save_small(path: Path, **arrays: np.ndarray) -> None:
    """As `save`, compressed, which is slow to read."""
    _write(path, np.savez_compressed, arrays)


def _write(path: Path, how: Callable[..., None], arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        how(file, **arrays)
    part.replace(path)
