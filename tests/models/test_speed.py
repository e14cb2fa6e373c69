"""EMO's speed buckets: s_i = tanh((w - c_i) / r_i * 3), of a frame and its neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from emo_live.config import TINY, SpeedConfig
from emo_live.models.speed import SpeedEncoder

CONFIG = SpeedConfig(centres=(0.0, 2.0, 10.0), radii=(1.0, 2.0, 4.0), context=1, hidden=8, width=4)


@pytest.mark.parametrize(
    ("velocity", "memberships"),
    [
        (0.0, (0.0, math.tanh(-3), math.tanh(-7.5))),
        (1.0, (math.tanh(3), math.tanh(-1.5), math.tanh(-6.75))),
        (2.0, (math.tanh(6), 0.0, math.tanh(-6))),
        (10.0, (1.0, math.tanh(12), 0.0)),
        (-1.0, (math.tanh(-3), math.tanh(-4.5), math.tanh(-8.25))),
    ],
)
def test_buckets(velocity: float, memberships: tuple[float, ...]) -> None:
    found = SpeedEncoder(CONFIG).buckets(torch.tensor([[velocity]]))
    torch.testing.assert_close(found, torch.tensor([[memberships]]))


def test_a_frame_reads_its_neighbours_and_no_others() -> None:
    encoder, velocity = SpeedEncoder(CONFIG), torch.arange(7.0)[None]
    features = encoder(velocity)
    assert features.shape == (1, 5, 4)
    for frame in range(5):
        for place in range(7):
            other = velocity.clone()
            other[0, place] += 1
            changed = not torch.equal(encoder(other)[0, frame], features[0, frame])
            assert changed == (frame <= place <= frame + 2)


def test_features_are_memberships_frame_after_frame() -> None:
    encoder, velocity = SpeedEncoder(CONFIG), torch.arange(7.0)[None]
    encoder.mlp = nn.ModuleList()
    buckets = encoder.buckets(velocity)
    torch.testing.assert_close(encoder(velocity), torch.cat([buckets[:, i : i + 5] for i in range(3)], 2))


def test_tiny_buckets_are_ordered_and_overlap() -> None:
    speed = TINY.emo.speed
    assert speed is not None
    edges = list(zip(speed.centres, speed.radii, strict=True))
    assert list(speed.centres) == sorted(set(speed.centres))
    assert all(c + 3 * r > d for (c, r), (d, _) in zip(edges[:-1], edges[1:], strict=True)), "no gap between buckets"
