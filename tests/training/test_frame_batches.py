"""Rendered frames as batches: flow, picture, mouth square and boxes stay consistent under crops and flips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.errors import BadInputError
from emo_live.training.autoencoder import mouth_square, region_weight, sampling_grid, squares, warp
from emo_live.training.frame_data import FrameBatches, Shard, _row, load_shards
from emo_live.training.shards import MARGIN

SAME = (torch.ones(3, 1, 1), 0.0)
SIDE = 144


def row(shard: Shard, flip: bool = False, corner: tuple[int, int] = (8, 16), i: int = 0) -> dict[str, Tensor]:
    """One row of a batch, as a batch of one, in its own colours."""
    return {name: value[None] for name, value in _row(shard, i, flip, SAME, np.array(corner)).items()}


def moved(batch: dict[str, Tensor], size: int = 256) -> Tensor:
    """The portrait moved by the frame's flow."""
    small = F.interpolate(batch["portrait"], size=(size, size), mode="area")
    return warp(small, sampling_grid(batch["motion"][:, :2], size))


@pytest.mark.parametrize("i", range(4))
def test_a_frame_is_the_portrait_moved_by_its_flow(shards: list[Shard], i: int) -> None:
    for shard in shards:
        batch = row(shard, i=i)
        solid = F.interpolate(F.max_pool2d(batch["motion"][:, 2:], 3, 1, 1), size=(256, 256)) < 0.02
        error = (moved(batch) - batch["frame"]).abs()[solid.expand(-1, 3, -1, -1)]
        still = (F.interpolate(batch["portrait"], size=(256, 256), mode="area") - batch["frame"]).abs()
        assert error.mean() < 0.045  # of a range of 2: edges, and JPEG
        assert error.mean() < 0.5 * still[solid.expand(-1, 3, -1, -1)].mean()


@pytest.mark.parametrize("corner", [(0, 0), (12, 8), (24, 24)])
def test_flipping_mirrors_everything(shards: list[Shard], corner: tuple[int, int]) -> None:
    plain, flipped = row(shards[0], False, corner), row(shards[0], True, corner)
    for name in ("frame", "mouth", "portrait"):
        assert torch.equal(flipped[name], plain[name].flip(-1))
    torch.testing.assert_close(moved(flipped), moved(plain).flip(-1), rtol=0, atol=2e-4)
    torch.testing.assert_close(flipped["motion"][:, 2], plain["motion"][:, 2].flip(-1))
    own = [squares(b["portrait"].permute(0, 2, 3, 1), b["origin"], SIDE) for b in (plain, flipped)]
    assert torch.equal(own[1], own[0].flip(2))
    weights = [region_weight(b["boxes"], 64) for b in (plain, flipped)]
    torch.testing.assert_close(weights[1], weights[0].flip(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_the_mouth_lies_where_its_origin_says(shards: list[Shard], flip: bool) -> None:
    """The square, halved, is the frame at its origin, and at no place nearby."""
    batch = row(shards[1], flip, (4, 20))
    x, y = (int(v) // 2 for v in batch["origin"][0])
    half = F.interpolate(batch["mouth"], scale_factor=0.5, mode="area")[0]
    frame = batch["frame"][0]

    def error(dx: int, dy: int) -> float:
        part = frame[:, y + dy : y + dy + 72, x + dx : x + dx + 72]
        return float((part - half)[:, 4:-4, 4:-4].abs().mean())

    errors = {(dx, dy): error(dx, dy) for dx in range(-3, 4) for dy in range(-3, 4)}
    assert min(errors, key=lambda place: errors[place]) == (0, 0)
    assert errors[0, 0] < 0.03


@pytest.mark.parametrize("flip", [False, True])
def test_the_square_moves_as_the_whole_picture_does(shards: list[Shard], flip: bool) -> None:
    batches = [row(shard, flip, corner) for shard in shards for corner in ((0, 0), (24, 12))]
    batch = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    near, grid = mouth_square(batch["motion"], batch["origin"], SIDE)
    whole = squares(sampling_grid(batch["motion"][:, :2], 512), batch["origin"], SIDE)
    torch.testing.assert_close(grid, whole, rtol=0, atol=1e-5)
    small = squares(batch["motion"].permute(0, 2, 3, 1), batch["origin"] // 4, SIDE // 4)
    assert torch.equal(near, small.permute(0, 3, 1, 2))


def test_no_flow_takes_every_pixel_from_its_place() -> None:
    picture = torch.rand(1, 3, 64, 64)
    still = warp(picture, sampling_grid(torch.zeros(1, 2, 16, 16), 64))
    torch.testing.assert_close(still, picture, rtol=0, atol=1e-5)
    right = warp(picture, sampling_grid(torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 16, 16), 64))
    torch.testing.assert_close(right[..., :-4], picture[..., 4:], rtol=0, atol=1e-4)  # 1 px of 16 is 4 px of 64


def test_lips_and_eyes_weigh_most() -> None:
    boxes = torch.tensor([[[0.4, 0.6, 0.6, 0.7], [0.3, 0.3, 0.7, 0.4], [0.2, 0.2, 0.8, 0.8]]])
    weight = region_weight(boxes, 100)[0, 0]
    assert weight[65, 50] > 6 and weight[35, 50] > 6
    assert 1 < weight[50, 25] < 5
    assert weight[2, 2] < 1.1


def test_batches(shards: list[Shard]) -> None:
    batches = iter(FrameBatches(shards, 2, 2, seed=0))
    drawn = [next(batches) for _ in range(6)]
    shapes = {"frame": (3, 256, 256), "motion": (3, 128, 128), "mouth": (3, SIDE, SIDE), "portrait": (3, 512, 512)}
    shapes |= {"origin": (2,), "boxes": (3, 4), "middle": ()}
    for batch in drawn:
        assert {name: tuple(value.shape) for name, value in batch.items()} == {n: (4, *s) for n, s in shapes.items()}
        assert all(torch.isfinite(value).all() for value in batch.values())
        assert batch["frame"].abs().max() <= 1 and batch["portrait"].abs().max() <= 1
        assert (batch["origin"] % 4 == 0).all(), "squares start where a pixel of flow does"
        assert batch["origin"].min() >= 4 and batch["origin"].max() <= 512 - SIDE - 4
        assert (batch["boxes"][..., :2] < batch["boxes"][..., 2:]).all()
        assert not torch.equal(batch["motion"][0], batch["motion"][1]), "two frames of the portrait"
        assert torch.equal(batch["portrait"][0], batch["portrait"][1])
    again = FrameBatches(shards, 2, 2, seed=0).draw()
    assert all(torch.equal(value, drawn[0][name]) for name, value in again.items())
    assert len({tuple(b["origin"][0].tolist()) for b in drawn}) > 2, "the square moves a little"
    assert len({float(b["portrait"].mean()) for b in drawn}) == 6, "colours change"


def test_without_slack_the_square_is_where_it_is_live(shards: list[Shard]) -> None:
    batch = FrameBatches(shards, 2, 2, seed=0, slack=0).draw()
    own = {int(x) for shard in shards for x in (shard.origin[0] + MARGIN, 512 - SIDE - shard.origin[0] - MARGIN)}
    assert {int(x) for x in batch["origin"][:, 0]} <= own
    centre = batch["origin"][:, 0] + SIDE / 2 + batch["middle"]  # of the incisors, in the portrait or mirrored
    theirs = torch.tensor([x for shard in shards for x in (float(shard.incisors), 512 - float(shard.incisors))])
    assert (centre[:, None] - theirs).abs().amin(1).max() < 1e-3 and batch["middle"].abs().max() < 6
    assert {int(y) for y in batch["origin"][:, 1]} <= {int(shard.origin[1] + MARGIN) for shard in shards}


def test_more_portraits_than_there_are(shards: list[Shard]) -> None:
    assert FrameBatches(shards, 3, 1, seed=0).draw()["frame"].shape[0] == 3


def test_margins_are_the_shards_own(shards: list[Shard]) -> None:
    assert all(shard.mouth.shape[1:3] == (SIDE + 2 * MARGIN,) * 2 for shard in shards)


def test_missing_frames_are_said(work: Path, tmp_path: Path) -> None:
    assert len(load_shards(work / "frames", ["faker_male_61", "nobody"])) == 1
    with pytest.raises(BadInputError, match="emo-live train frames"):
        load_shards(tmp_path, ["faker_male_61"])
