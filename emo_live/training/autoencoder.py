"""The motion autoencoder beyond its linear basis: FlowDecoder and MouthPainter, trained on rendered frames.

Loss: flow and hole labels, the warped picture against the rendered one, the painted mouth (L1, its edges, and late a
patch discriminator). MouthPainter may be trained alone, around a flow that is finished.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.models.autoencoder import Autoencoder
from emo_live.training.frame_data import FrameBatches, load_shards
from emo_live.training.pack import Pack
from emo_live.training.run import Budget, Run, Stateful, autocast, channels_last, optimizers
from emo_live.training.shards import MARGIN

LATENT_NOISE = 0.12  # latents get noise up to this: the diffusion model's are not exact either
PER_PORTRAIT = 4  # frames of a portrait in a batch
CRITIC_FROM, CRITIC_FROM_ALONE = 0.5, 0.1  # share of the budget after which the discriminator joins
ADVERSARIAL = 0.003  # ten times as much leaves dots at the corners of the mouth
RATES, RATES_ALONE = (6e-3, 1.5e-3), (3e-3, 8e-4)  # of Muon and AdamW
PAINTER = ("mouth.", "appearance.mouth.", "appearance.tone.")  # what paints, by the prefix of its weights


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


def decode(model: Autoencoder, batch: dict[str, Tensor], z: Tensor, in_a_row: int = 1) -> dict[str, Tensor]:
    """Latents -> motion, warped picture (256 px), warped and painted mouth square. in_a_row: frames of a portrait."""
    side = batch["mouth"].shape[-1]
    own = {name: batch[name][::in_a_row] for name in ("portrait", "origin")}
    own_mouth = squares(own["portrait"].permute(0, 2, 3, 1), own["origin"], side).permute(0, 3, 1, 2)
    face, inside = (x.repeat_interleave(in_a_row, 0) for x in model.look(own["portrait"], own_mouth))
    motion = model.flow(z, face).float()
    small = F.interpolate(batch["portrait"], scale_factor=0.5, mode="area")
    picture = warp(small, sampling_grid(motion[:, :2], 256))
    near, grid = mouth_square(motion, batch["origin"], side)
    warped = warp(batch["portrait"], grid)
    painted = model.mouth(warped, near, inside, batch.get("middle")).float()
    mixed = warped + painted[:, 3:] * (painted[:, :3] - warped)
    return {"motion": motion, "picture": picture, "warped": warped, "painted": painted, "mouth": mixed}


class Critic:
    """The discriminator and how it learns."""

    def __init__(self, device: torch.device):
        self.device, self.net = device, Discriminator().to(device)
        channels_last(self.net)
        self.optim = torch.optim.AdamW(self.net.parameters(), 4e-4, betas=(0.5, 0.9))

    def parts(self) -> dict[str, Stateful]:
        """What a run saves beside its model."""
        return {"critic": self.net, "critic_optim": self.optim}

    def learn(self, fake: Tensor, real: Tensor, condition: Tensor, where: Tensor) -> dict[str, Tensor]:
        """A step of the discriminator, then what it says of `fake`. where: (B, 1, S / 4, S / 4) weights of places."""
        where = where / where.mean().clamp(min=1e-3)
        with autocast(self.device):
            on_real, on_fake = self.net(real, condition), self.net(fake.detach(), condition)
        critic = ((F.relu(1 - on_real.float()) + F.relu(1 + on_fake.float())) * where).mean()
        self.optim.zero_grad(set_to_none=True)
        critic.backward()
        self.optim.step()
        self.net.requires_grad_(False)
        with autocast(self.device):
            adversarial = -(self.net(fake, condition).float() * where).mean()
        self.net.requires_grad_(True)
        return {"critic": critic.detach(), "adversarial": adversarial}


class AutoencoderLoss:
    """painter_alone: the motion and the moved picture are finished and do not count."""

    def __init__(self, model: Autoencoder, critic: Critic, run: Run, *, painter_alone: bool = False):
        self.model, self.critic, self.run, self.painter_alone = model, critic, run, painter_alone
        self.critic_from = CRITIC_FROM_ALONE if painter_alone else CRITIC_FROM

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with autocast(self.critic.device):
            z = self.model.flow.basis.encode(batch["motion"])
            z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1) * LATENT_NOISE
            out = decode(self.model, batch, z, PER_PORTRAIT)
        near, _ = mouth_square(batch["motion"], batch["origin"], out["mouth"].shape[-1])
        inside = F.max_pool2d(near[:, 2:], 3, 1, 1)
        losses = self._painted(out, batch["mouth"], inside)
        loss = 6 * losses["mouth"] + 3 * losses["rim"] + 0.1 * losses["share"]
        if not self.painter_alone:
            moved = self._moved(out, batch)
            loss = loss + 0.15 * moved["flow"] + 0.5 * moved["hole"] + 2 * moved["photo"]
            losses |= moved
        if self.run.progress > self.critic_from:
            # Only inside: elsewhere it would tell what was moved from what was drawn, and have lips repainted.
            judged = self.critic.learn(out["mouth"], batch["mouth"], out["warped"].detach(), inside)
            loss = loss + ADVERSARIAL * judged["adversarial"]
            losses |= judged
        return {"loss": loss, **losses}

    @staticmethod
    def _moved(out: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weight, hole = region_weight(batch["boxes"], 128), batch["motion"][:, 2:]
        flow = (out["motion"][:, :2] - batch["motion"][:, :2]).abs() * weight * (1 - hole)
        gap = (out["motion"][:, 2:] - hole).abs() * weight
        solid = (F.interpolate(F.max_pool2d(hole, 3, 1, 1), scale_factor=2.0) < 0.02).float()
        photo = (out["picture"] - batch["frame"]).abs() * region_weight(batch["boxes"], 256) * solid
        return {"flow": flow.mean(), "hole": gap.mean(), "photo": photo.mean()}

    @staticmethod
    def _painted(out: dict[str, Tensor], mouth: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """share: how much is painted of what the portrait shows."""
        fine = F.interpolate(inside, scale_factor=4.0, mode="bilinear")
        return {
            "mouth": ((out["mouth"] - mouth).abs() * (1 + 10 * fine)).mean(),
            "rim": edge_loss(out["mouth"], mouth),
            "share": (out["painted"][:, 3:] * (1 - fine)).mean(),
        }


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


def train(
    data: Path, pack: Pack, model: Autoencoder, out: Path, budget: Budget, *, painter_alone: bool
) -> dict[str, float]:
    """data: folder of frames; model: with its basis fitted. painter_alone: the rest stays as it is."""
    torch.manual_seed(budget.seed)
    shards, held_out = (load_shards(data, pack.portraits(split)) for split in ("train", "val"))
    print(f"{len(shards)} portraits, {len(held_out)} held out", flush=True)
    channels_last(model)
    if painter_alone:
        select_painter(model)
    critic = Critic(torch.device("cpu"))
    rates = RATES_ALONE if painter_alone else RATES
    run = Run(out, model, optimizers(model, *rates), budget, beside=critic.parts())
    loss = AutoencoderLoss(model, critic, run, painter_alone=painter_alone)
    slack = 0 if painter_alone else MARGIN
    batches = FrameBatches(shards, budget.batch // PER_PORTRAIT, PER_PORTRAIT, budget.seed + run.step, slack)
    shown = FrameBatches(held_out, min(12, len(held_out)), 1, 1, slack).draw()
    return run.train(iter(batches), loss, lambda model, path: sheet(model, shown, path))


def select_painter(model: Autoencoder) -> None:
    """Only what paints learns from now on."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(PAINTER))
