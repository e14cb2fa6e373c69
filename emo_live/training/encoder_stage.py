"""Trains the PixelEncoder: on rendered frames, whose latents are known, and then on real clips, whose pictures are.

Rendered: regression of the exact latents, and of the flow, picture and mouth that the frozen autoencoder makes of them.
Real clips (optional): the same decoder's picture against the frame, while latents stay near what they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.models.autoencoder import Autoencoder, MotionBasis
from emo_live.training.autoencoder import decode, mouth_square, region_weight
from emo_live.training.basis import load_basis
from emo_live.training.frame_data import FrameBatches, Shard, load_shards
from emo_live.training.pixel_encoder import PixelEncoder, RoughFlow, as_pixels, half_size
from emo_live.training.run import Budget, Run, autocast, channels_last, load_weights, optimizers
from emo_live.training.stages_options import BASIS
from emo_live.training.work_folder import autoencoder_of
from emo_live.types import UInt8

PER_PORTRAIT = 2  # frames of a portrait in a batch
DECODED_FROM = 0.6  # share of the budget after which pictures count, too: they are dear and say less than latents
REAL_SHARE = 0.5  # of the batches, once there are real clips
RATES, TUNING_RATES = (2e-2, 3e-3), (2e-3, 6e-4)  # of Muon and AdamW
MOVED_SHARE = 0.3  # of the rendered batches: heads of real clips move further than those of the puppets ...
FURTHEST = 14  # ... by up to so many px of 128
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """What to learn from. rendered, held_out: portraits; clips, unseen: real ones, of unknown motion."""

    rendered: list[Shard]
    held_out: list[Shard]
    clips: list[Shard]
    unseen: list[Shard]


def new_encoder(basis: MotionBasis) -> PixelEncoder:
    encoder = PixelEncoder(TINY.autoencoder)
    encoder.basis.load_state_dict(basis.state_dict())
    return encoder


def load_encoder(work: Path, stage: str) -> PixelEncoder:
    encoder = new_encoder(load_basis(work / BASIS))
    load_weights(encoder, work / stage)
    return encoder.eval().requires_grad_(False)


def like_a_camera(pictures: Tensor, random: np.random.Generator) -> Tensor:
    """(B, 3, H, W) clean renderings -> as a video would have them: exposure wanders, detail is lost, there is noise."""
    rows = []
    for picture in pictures:
        x = picture * random.uniform(0.94, 1.06) + random.uniform(-0.05, 0.05)
        if random.random() < 0.5:
            small = F.interpolate(x[None], scale_factor=random.uniform(0.5, 1), mode="bilinear", antialias=True)
            x = F.interpolate(small, size=picture.shape[1:], mode="bilinear")[0]
        grain = F.interpolate(torch.randn(1, *x.shape), scale_factor=0.5)  # codecs leave noise coarser than a pixel
        grain = F.interpolate(grain, size=x.shape[1:], mode="bilinear")[0]
        rows.append((x + grain * random.uniform(0, 0.04)).clamp(-1, 1))
    return torch.stack(rows)


def moved(batch: Batch, x: int, y: int) -> Batch:
    """The same frames to the right and down by x and y px of 128, with the motion and boxes that belong to them. Beyond
    their border the border goes on. The mouth's square stays what it was."""

    def move(pictures: Tensor) -> Tensor:
        scale, reach = pictures.shape[-1] // 128, FURTHEST * pictures.shape[-1] // 128
        wide = F.pad(pictures, (reach, reach, reach, reach), mode="replicate")
        left, top = reach - x * scale, reach - y * scale
        return wide[..., top : top + pictures.shape[-1], left : left + pictures.shape[-1]]

    shift = torch.tensor([float(x), float(y), 0.0])
    return {
        **batch,
        "frame": move(batch["frame"]),
        "motion": move(batch["motion"]) - shift[:, None, None],
        "boxes": batch["boxes"] + shift[[0, 1, 0, 1]] / 128,
    }


def shown(hole: Tensor, reach: int) -> Tensor:
    """(B, 1, 128, 128) share of hole -> (B, 1, 256, 256): 1 where there is none, nor in `reach` px around."""
    return (F.interpolate(F.max_pool2d(hole, reach, 1, reach // 2), scale_factor=2.0) < 0.05).float()


class EncoderLoss:
    """The rendered batch's latents and the pictures that the frozen autoencoder makes of them."""

    def __init__(
        self, encoder: PixelEncoder, autoencoder: Autoencoder, seed: int, progress: Callable[[], float] = lambda: 1.0
    ):
        self.encoder, self.autoencoder, self.progress = encoder, autoencoder, progress
        self.before = copy.deepcopy(encoder).requires_grad_(False)
        self.rough, self.random = RoughFlow(), np.random.default_rng([seed, 5])
        scale = encoder.basis.scale.sqrt()
        self.channels = (scale / scale.mean())[:, None, None]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return self.on_clips(batch) if "real" in batch else self.on_rendered(batch)

    def on_rendered(self, batch: Batch) -> dict[str, Tensor]:
        away = self.random.random() < MOVED_SHARE
        if away:
            batch = moved(batch, *(int(v) for v in self.random.integers(-FURTHEST, FURTHEST + 1, 2)))
        portrait = like_a_camera(half_size(batch["portrait"]), self.random)
        frame = like_a_camera(batch["frame"], self.random)
        true = self.encoder.basis.encode(batch["motion"])
        with autocast(torch.device("cpu")):
            z = self.encoder(portrait, frame, self.rough.of_batch(portrait, frame)).float()
        latent = self._distance(z, true, batch["boxes"])
        if self.progress() < DECODED_FROM:
            return {"loss": latent, "latent": latent}
        with autocast(torch.device("cpu")):
            out = decode(self.autoencoder, batch, z, PER_PORTRAIT)
        where = region_weight(batch["boxes"], 128)
        flow = ((out["motion"][:, :2] - batch["motion"][:, :2]).abs() * where * (1 - batch["motion"][:, 2:])).mean()
        hole = ((out["motion"][:, 2:] - batch["motion"][:, 2:]).abs() * where).mean()
        photo, mouth = self._pictures(out, batch)
        loss = latent + 0.05 * flow + 0.5 * hole + 0.3 * photo + (0 if away else 0.6) * mouth
        return {"loss": loss, "latent": latent, "flow": flow, "hole": hole, "photo": photo, "mouth": mouth}

    def on_clips(self, batch: Batch) -> dict[str, Tensor]:
        portrait, frame = half_size(batch["portrait"]), batch["frame"]
        with autocast(torch.device("cpu")):
            rough = self.rough.of_batch(portrait, frame)
            z, before = self.encoder(portrait, frame, rough).float(), self.before(portrait, frame, rough).float()
            picture = decode(self.autoencoder, batch, z, PER_PORTRAIT)["picture"]
        near = self._distance(z, before, batch["boxes"])
        # Where the mouth is open is left to what rendered frames taught: the painter's teeth are not this person's,
        # and lips drawn over the opening would match them better.
        solid = shown(self.encoder.basis.decode(before)[:, 2:], 5)
        photo = ((picture - batch["frame"]).abs() * region_weight(batch["boxes"], 256) * solid).mean()
        return {"loss": 2 * photo + 0.5 * near, "real_photo": photo, "real_near": near}

    def _distance(self, z: Tensor, target: Tensor, boxes: Tensor) -> Tensor:
        """Of latents, weighted by what is visible: mouth and eyes, and channels with much energy."""
        error = F.smooth_l1_loss(z, target, reduction="none", beta=0.3)
        return (error * self.channels * region_weight(boxes, z.shape[-1])).mean()

    @staticmethod
    def _pictures(out: Batch, batch: Batch) -> tuple[Tensor, Tensor]:
        """Errors of the warped picture, where nothing is painted over it, and of the finished mouth."""
        solid = shown(out["motion"][:, 2:].detach(), 3)
        photo = ((out["picture"] - batch["frame"]).abs() * region_weight(batch["boxes"], 256) * solid).mean()
        near, _ = mouth_square(out["motion"].detach(), batch["origin"], out["mouth"].shape[-1])
        inside = F.interpolate(near[:, 2:].clamp(0, 1), scale_factor=4.0, mode="bilinear")
        return photo, ((out["mouth"] - batch["mouth"]).abs() * (1 + 5 * inside)).mean()


def mixed(task: Task, batch: int, seed: int) -> Iterator[Batch]:
    """Rendered batches and, if there are clips, real ones, marked as such."""
    random = np.random.default_rng([seed, 6])
    rendered, real = (
        FrameBatches(part, batch // PER_PORTRAIT, PER_PORTRAIT, seed) for part in (task.rendered, task.clips)
    )
    share = REAL_SHARE if task.clips and task.rendered else float(bool(task.clips))
    while True:
        yield {**real.draw(), "real": torch.ones(())} if random.random() < share else rendered.draw()


@torch.no_grad()
def reconstruct(encoder: PixelEncoder, autoencoder: Autoencoder, batch: Batch) -> Batch:
    """What the autoencoder makes of the encoder's latents, the mouth put into the picture; also z."""
    portrait = half_size(batch["portrait"])
    z = encoder(portrait, batch["frame"], RoughFlow().of_batch(portrait, batch["frame"])).float()
    out = decode(autoencoder, batch, z)
    x, y = batch["origin"].T // 2
    side = batch["mouth"].shape[-1] // 2
    small = F.interpolate(out["mouth"], scale_factor=0.5, mode="area")
    for picture, mouth, left, top in zip(out["picture"], small, x.tolist(), y.tolist(), strict=True):
        picture[:, top : top + side, left : left + side] = mouth
    return {**out, "z": z}


def face_errors(made: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B,) mean absolute errors within the face's and the mouth's box, in shares of white; made (B, 3, 256, 256)."""
    error = (made - batch["frame"]).abs().mean(1) / 2
    axis = (torch.arange(error.shape[-1]) + 0.5) / error.shape[-1]
    shares = []
    for part in (2, 0):
        x0, y0, x1, y1 = batch["boxes"][:, part].T[:, :, None]
        inside = (((axis > y0) & (axis < y1))[:, :, None] & ((axis > x0) & (axis < x1))[:, None]).float()
        shares.append((error * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1))
    return shares[0], shares[1]


def strips(batch: Batch, out: Batch) -> UInt8:
    """(B, 256, 5 * 256, 3): portrait, frame, what was made of it, mouth, made mouth."""
    near = [F.interpolate(x, size=(256, 256)) for x in (batch["mouth"], out["mouth"])]
    return as_pixels(torch.cat([half_size(batch["portrait"]), batch["frame"], out["picture"], *near], 3))


def save_strips(rows: list[UInt8], path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.concatenate([row for part in rows for row in part])).save(path)


def sheet(encoder: nn.Module, autoencoder: Autoencoder, batches: dict[str, Batch], path: Path) -> dict[str, float]:
    """Saves some held-out pictures of every kind as made from their latents. Returns the errors of all."""
    assert isinstance(encoder, PixelEncoder)
    figures: dict[str, float] = {}
    rows: list[UInt8] = []
    for kind, batch in batches.items():
        out = reconstruct(encoder, autoencoder, batch)
        face, mouth = face_errors(out["picture"], batch)
        copied = face_errors(half_size(batch["portrait"]), batch)
        figures |= {f"{kind}_l1": float(face.mean()), f"{kind}_mouth_l1": float(mouth.mean())}
        figures |= {f"{kind}_copy_l1": float(copied[0].mean()), f"{kind}_copy_mouth_l1": float(copied[1].mean())}
        if kind == "val":
            true = encoder.basis.encode(batch["motion"])
            figures["val_z"] = float((out["z"] - true).square().mean() / true.square().mean())
        rows.append(strips(batch, out)[:6])
    save_strips(rows, path)
    return figures


def train(task: Task, encoder: PixelEncoder, autoencoder: Autoencoder, out: Path, budget: Budget) -> dict[str, float]:
    """encoder: where to start. With clips this is fine-tuning, at lower rates and near where it started."""
    torch.manual_seed(budget.seed)
    for module in (encoder, autoencoder):
        channels_last(module)
    encoder.train().requires_grad_(True)
    loss = EncoderLoss(encoder, autoencoder, budget.seed, lambda: run.progress)
    run = Run(out, encoder, optimizers(encoder, *(TUNING_RATES if task.clips else RATES)), budget, ema=0.995)
    kinds = {"val": task.held_out, "clips": task.unseen}
    shown = {kind: FrameBatches(shards, 12, PER_PORTRAIT, 1).draw() for kind, shards in kinds.items() if shards}
    print(f"{len(task.rendered)} portraits, {len(task.held_out)} held out, {len(task.clips)} clips", flush=True)
    return run.train(
        mixed(task, budget.batch, budget.seed + run.step),
        loss,
        (lambda model, path: sheet(model, autoencoder, shown, path)) if shown else None,
    )


def train_on_frames(work: Path, names: tuple[list[str], list[str]], out: Path, budget: Budget) -> dict[str, float]:
    """names: portraits of work/frames to train on and to hold out."""
    shards = [load_shards(work / "frames", part) for part in names]
    basis = load_basis(work / BASIS)
    return train(Task(shards[0], shards[1], [], []), new_encoder(basis), autoencoder_of(work), out, budget)
