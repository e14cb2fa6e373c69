"""Stage 1: the motion autoencoder. Flow PCA first (closed form), then FlowDecoder and MouthPainter on rendered frames.

Data: shards of `emo_live.training.puppets frames`. Loss: flow and hole labels, the warped picture against the rendered
one, the painted mouth (L1, its edges, and late a patch discriminator).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import TINY, AutoencoderConfig
from emo_live.models.autoencoder import HOLE_GAIN, AppearanceEncoder, FlowDecoder, MotionBasis, MouthPainter
from emo_live.training.run import Run, autocast, optimizers

LATENT_NOISE = 0.12


class Autoencoder(nn.Module):
    """The three trained parts together, as they are saved."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.appearance = AppearanceEncoder(config)
        self.flow = FlowDecoder(config)
        self.mouth = MouthPainter(config)


@dataclass
class Shard:
    frames: np.ndarray  # (N, 256, 256, 3) uint8
    flow: np.ndarray  # (N, 128, 128, 3) float16: x, y as shares of the side, hole
    mouth: np.ndarray  # (N, 144, 144, 3) uint8
    portrait: np.ndarray  # (512, 512, 3) uint8
    origin: np.ndarray  # (2,) int x, y of the mouth square in the 512 px picture
    boxes: np.ndarray  # (N, 3, 4) mouth, eyes, face in 256 px pictures


def load_shards(folder: Path, split: str, side: int) -> list[Shard]:
    shards = []
    for path in sorted(folder.glob("*.labels.npz")):
        name = path.name.removesuffix(".labels.npz")
        labels = np.load(path)
        if str(labels["split"]) != split:
            continue
        mouth = np.load(folder / f"{name}.mouth.npz")
        edge = (mouth["mouth"].shape[1] - side) // 2
        crop = mouth["mouth"][:, edge : edge + side, edge : edge + side]
        shards.append(
            Shard(
                np.load(folder / f"{name}.frames.npy"),
                np.load(folder / f"{name}.flow.npy"),
                crop,
                mouth["reference512"],
                mouth["origin"] + edge,
                labels["boxes"],
            )
        )
    assert shards, f"no shards of split {split} in {folder}: render them with `emo-live train puppets`"
    return shards


def fit_basis(basis: MotionBasis, shards: list[Shard], per_shard: int, seed: int = 0) -> float:
    """Weighted PCA of flow patches; mouth and eyes weigh more. Returns the share of weighted energy that is kept."""
    random = np.random.default_rng(seed)
    patch, size = basis.patch, 3 * basis.patch**2
    cells = shards[0].flow.shape[1] // patch
    centres = (np.arange(cells) + 0.5) / cells
    total = torch.zeros(size, size, dtype=torch.float64)
    for shard in shards:
        chosen = np.sort(random.choice(len(shard.flow), min(per_shard, len(shard.flow)), replace=False))
        motion = torch.from_numpy(np.asarray(shard.flow[chosen], np.float32)).permute(0, 3, 1, 2)
        side = motion.shape[-1]
        patches = F.pixel_unshuffle(motion * torch.tensor([side, side, HOLE_GAIN])[:, None, None], patch)
        weight = np.full((len(chosen), cells, cells), 0.3)
        for part, gain in enumerate((8.0, 5.0, 1.5)):
            box = shard.boxes[chosen, part] / 256
            middle, reach = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * 1.1 + 0.03
            across = ((centres - middle[:, :1]) / reach[:, :1])[:, None] ** 2
            down = ((centres - middle[:, 1:]) / reach[:, 1:])[:, :, None] ** 2
            weight += gain * np.exp(-0.75 * (across + down))
        rows = patches.permute(0, 2, 3, 1).flatten(0, 2).double()
        total += (rows * torch.from_numpy(weight).flatten()[:, None]).T @ rows / weight.sum()
    energy, vectors = torch.linalg.eigh(total / len(shards))
    kept = basis.basis.shape[1]
    basis.basis.copy_(vectors.flip(1)[:, :kept])
    basis.scale.copy_(energy.flip(0)[:kept].sqrt())
    return float(energy.flip(0)[:kept].sum() / energy.sum())


def sampling_grid(flow: Tensor, size: int) -> Tensor:
    """Backward flow (B, 2, h, w) in px of its own resolution -> grid (B, size, size, 2) for grid_sample."""
    side = flow.shape[-1]
    fine = F.interpolate(flow, size=(size, size), mode="bilinear", align_corners=False).permute(0, 2, 3, 1) * (2 / side)
    axis = (torch.arange(size, device=flow.device) + 0.5) / size * 2 - 1
    return fine + torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def warp(picture: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)


def squares(grid: Tensor, origin: Tensor, side: int) -> Tensor:
    """Cuts (B, side, side, ...) out of (B, S, S, ...) at per-row x, y origins."""
    return torch.stack([g[y : y + side, x : x + side] for g, (x, y) in zip(grid, origin.tolist(), strict=True)])


class Batches:
    """Random batches with flips and colour changes: `portraits` portraits x `per_portrait` frames."""

    def __init__(self, shards: list[Shard], portraits: int, per_portrait: int, seed: int):
        self.shards, self.portraits, self.per_portrait = shards, portraits, per_portrait
        self.random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.draw()

    def draw(self) -> dict[str, Tensor]:
        rows: dict[str, list[Tensor]] = {}
        for k in self.random.choice(len(self.shards), self.portraits, replace=False):
            shard, flip, colour = self.shards[k], self.random.random() < 0.5, self._colour()
            for i in self.random.choice(len(shard.frames), self.per_portrait, replace=False):
                for name, value in self._row(shard, int(i), flip, colour).items():
                    rows.setdefault(name, []).append(value)
        return {name: torch.stack(values) for name, values in rows.items()}

    def _colour(self) -> tuple[Tensor, Tensor]:
        gain = self.random.uniform(0.75, 1.25) * self.random.uniform(0.92, 1.08, 3)
        return torch.tensor(gain, dtype=torch.float32)[:, None, None], torch.tensor(
            self.random.uniform(-0.12, 0.12)
        ).float()

    @staticmethod
    def _row(shard: Shard, i: int, flip: bool, colour: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        def picture(array: np.ndarray) -> Tensor:
            x = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float() / 127.5 - 1
            x = (x * colour[0] + colour[1]).clamp(-1, 1)
            return x.flip(2) if flip else x

        motion = torch.from_numpy(shard.flow[i].astype(np.float32)).permute(2, 0, 1)
        side, mouth = motion.shape[-1], shard.mouth.shape[1]
        motion = motion * torch.tensor([side, side, 1.0])[:, None, None]
        boxes, origin = torch.from_numpy(shard.boxes[i] / 256).float(), torch.from_numpy(shard.origin).long()
        if flip:
            motion = motion.flip(2) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
            boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
            origin = torch.stack([512 - mouth - origin[0], origin[1]])
        return {
            "frame": picture(shard.frames[i]),
            "motion": motion,
            "mouth": picture(shard.mouth[i]),
            "portrait": picture(shard.portrait),
            "origin": origin,
            "boxes": boxes,
        }


def mouth_square(motion: Tensor, origin: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The mouth square's motion (B, 3, side / 4, side / 4) and its grid into the 512 px portrait (B, side, side, 2)."""
    wide = squares(motion.permute(0, 2, 3, 1), origin // 4 - 1, side // 4 + 2).permute(0, 3, 1, 2)
    # one more flow pixel on each side, so that the square is interpolated exactly as the whole picture is
    fine = F.interpolate(wide[:, :2], scale_factor=4.0, mode="bilinear", align_corners=False)[..., 4:-4, 4:-4]
    axis = torch.arange(side, device=motion.device) + 0.5
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1) + origin[:, None, None].to(axis.dtype)
    grid = places / 256 - 1 + fine.permute(0, 2, 3, 1) * (2 / motion.shape[-1])
    return wide[..., 1:-1, 1:-1], grid


def region_weight(boxes: Tensor, size: int) -> Tensor:
    """(B, 3, 4) mouth, eyes, face boxes in 0..1 -> (B, 1, size, size) loss weights."""
    axis = (torch.arange(size) + 0.5) / size
    weight = torch.ones(len(boxes), 1, size, size)
    for part, gain in enumerate((6.0, 6.0, 2.0)):
        box = boxes[:, part]
        middle, reach = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 + 0.02
        across = ((axis - middle[:, :1]) / reach[:, :1])[:, None, None, :] ** 2
        down = ((axis - middle[:, 1:]) / reach[:, 1:])[:, None, :, None] ** 2
        weight = weight + gain * torch.exp(-0.75 * (across + down))
    return weight


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    return sum(((p - q).abs().mean() for p, q in zip(edges(a), edges(b), strict=True)), start=a.new_zeros(()))


class Discriminator(nn.Module):
    """Patch discriminator on the mouth square and the warped square beside it."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width * 2, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 2, width * 3, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 3, 1, 3, 1, 1),
        )

    def forward(self, picture: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([picture, condition], 1))
        return out


def decode(model: Autoencoder, batch: dict[str, Tensor], z: Tensor) -> dict[str, Tensor]:
    """Latents -> motion, warped picture (256 px), warped and painted mouth square."""
    side = batch["mouth"].shape[-1]
    own_mouth = squares(batch["portrait"].permute(0, 2, 3, 1), batch["origin"], side).permute(0, 3, 1, 2)
    face, inside = model.appearance(batch["portrait"], own_mouth)
    motion = model.flow(z, face).float()
    small = F.interpolate(batch["portrait"], scale_factor=0.5, mode="area")
    picture = warp(small, sampling_grid(motion[:, :2], 256))
    near, grid = mouth_square(motion, batch["origin"], side)
    warped = warp(batch["portrait"], grid)
    painted = model.mouth(warped, near, inside).float()
    mixed = warped + painted[:, 3:] * (painted[:, :3] - warped)
    return {"motion": motion, "picture": picture, "warped": warped, "painted": painted, "mouth": mixed}


class AutoencoderLoss:
    def __init__(self, model: Autoencoder, run_progress: list[float], device: torch.device):
        self.model, self.progress, self.device = model, run_progress, device
        self.critic = Discriminator().to(device, memory_format=torch.channels_last)
        self.critic_optim = torch.optim.AdamW(self.critic.parameters(), 4e-4, betas=(0.5, 0.9))

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with autocast(self.device):
            z = self.model.flow.basis.encode(batch["motion"])
            z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1) * LATENT_NOISE
            out = decode(self.model, batch, z)
        weight, hole = region_weight(batch["boxes"], 128), batch["motion"][:, 2:]
        seen = 1 - hole
        flow = ((out["motion"][:, :2] - batch["motion"][:, :2]).abs() * weight * seen).mean()
        gap = ((out["motion"][:, 2:] - hole).abs() * weight).mean()
        fine = region_weight(batch["boxes"], 256)
        solid = (F.interpolate(F.max_pool2d(hole, 3, 1, 1), scale_factor=2.0) < 0.02).float()
        photo = ((out["picture"] - batch["frame"]).abs() * fine * solid).mean()
        near, _ = mouth_square(batch["motion"], batch["origin"], out["mouth"].shape[-1])
        inside = F.interpolate(F.max_pool2d(near[:, 2:], 3, 1, 1), scale_factor=4.0, mode="bilinear")
        mouth = ((out["mouth"] - batch["mouth"]).abs() * (1 + 10 * inside)).mean()
        rim = edge_loss(out["mouth"], batch["mouth"])
        share = out["painted"][:, 3:].mean()
        loss = 0.15 * flow + 0.5 * gap + 2 * photo + 6 * mouth + 3 * rim + 0.02 * share
        losses = {"flow": flow, "hole": gap, "photo": photo, "mouth": mouth, "rim": rim, "share": share}
        if self.progress[0] > 0.55:
            losses["critic"], adversarial = self._adversarial(out["mouth"], batch["mouth"], out["warped"].detach())
            losses["adversarial"] = adversarial
            loss = loss + 0.03 * adversarial
        return {"loss": loss, **losses}

    def _adversarial(self, fake: Tensor, real: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device):
            on_real, on_fake = self.critic(real, condition), self.critic(fake.detach(), condition)
        critic = F.relu(1 - on_real.float()).mean() + F.relu(1 + on_fake.float()).mean()
        self.critic_optim.zero_grad(set_to_none=True)
        critic.backward()  # type: ignore[no-untyped-call]
        self.critic_optim.step()
        self.critic.requires_grad_(False)
        with autocast(self.device):
            adversarial = -self.critic(fake, condition).float().mean()
        self.critic.requires_grad_(True)
        return critic.detach(), adversarial


@torch.no_grad()
def sheet(model: nn.Module, batch: dict[str, Tensor], path: Path) -> dict[str, float]:
    """Held-out pictures: portrait, target, output, target mouth, warped mouth, painted mouth. Returns their errors."""
    from PIL import Image

    assert isinstance(model, Autoencoder)
    out = decode(model, batch, model.flow.basis.encode(batch["motion"]))
    small = F.interpolate(batch["portrait"], scale_factor=0.5, mode="area")
    near = [F.interpolate(x, size=(256, 256)) for x in (batch["mouth"], out["warped"], out["mouth"])]
    rows = torch.cat([small, batch["frame"], out["picture"], *near], 3)[:8]
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).reshape(-1, rows.shape[3], 3)
    Image.fromarray(pixels.numpy()).save(path)
    error = ((out["mouth"] - batch["mouth"]) / 2).pow(2).mean()
    return {
        "val_mouth_psnr": float(-10 * error.log10()),
        "val_photo_l1": float((out["picture"] - batch["frame"]).abs().mean() / 2),
        "val_flow_px": float((out["motion"][:, :2] - batch["motion"][:, :2]).abs().mean()),
    }


def train(data: Path, out: Path, *, minutes: float, steps: int | None, batch: int, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    device = torch.device("cpu")
    model = Autoencoder(TINY.autoencoder)
    side = TINY.autoencoder.mouth_size
    train_shards, val_shards = load_shards(data, "train", side), load_shards(data, "val", side)
    kept = fit_basis(model.flow.basis, train_shards, 14, seed)
    print(f"{len(train_shards)} portraits; the PCA keeps {kept:.4f} of the weighted energy", flush=True)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(out, model, optimizers(model, 6e-3, 1.5e-3), minutes=minutes, max_steps=steps)
    progress = [run.progress]
    loss = AutoencoderLoss(model, progress, device)
    held_out = Batches(val_shards, min(12, len(val_shards)), 1, 1).draw()

    def losses(b: dict[str, Tensor]) -> dict[str, Tensor]:
        progress[0] = run.progress
        return loss(b)

    return run.train(
        iter(Batches(train_shards, batch // 2, 2, seed + run.step)), losses, lambda m, p: sheet(m, held_out, p)
    )
