"""Motion latents: the linear part inverts itself, and before training the networks change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import TINY
from emo_live.models.autoencoder import (
    HOLE_GAIN,
    AppearanceEncoder,
    FirstConv,
    FlowDecoder,
    MotionBasis,
    MouthPainter,
    ToothEdges,
)

Draw = Callable[..., Tensor]
CONFIG = TINY.autoencoder


@pytest.fixture
def basis(draw: Draw) -> MotionBasis:
    made = MotionBasis(CONFIG)
    made.basis.copy_(torch.linalg.qr(draw(*made.basis.shape))[0])
    made.scale.copy_(draw(*made.scale.shape).exp())
    return made


def test_latents_survive_decoding(basis: MotionBasis, draw: Draw) -> None:
    z = draw(2, 16, 16, 16)
    motion = basis.decode(z)
    assert motion.shape == (2, 3, 128, 128)
    torch.testing.assert_close(basis.encode(motion), z, rtol=0, atol=1e-4)


def test_zero_is_the_portrait(basis: MotionBasis) -> None:
    assert basis.decode(torch.zeros(1, 16, 16, 16)).abs().max() == 0


def test_holes_weigh_more_than_pixels_of_flow(basis: MotionBasis) -> None:
    pixel = torch.zeros(3, 3, 128, 128)
    pixel[torch.arange(3), torch.arange(3), 8, 8] = 1
    basis.basis.zero_()
    basis.basis[torch.tensor([0, 64, 128]), torch.arange(3)] = 1
    basis.scale.fill_(1)
    assert basis.encode(pixel)[:, :3, 1, 1].diagonal().tolist() == [1.0, 1.0, HOLE_GAIN]


def test_flow_decoder_starts_as_the_linear_one(draw: Draw) -> None:
    decoder, z = FlowDecoder(CONFIG), draw(2, 16, 16, 16)
    decoder.basis.basis.copy_(torch.linalg.qr(draw(*decoder.basis.basis.shape))[0])
    features = draw(1, CONFIG.reference_channels, 32, 32)
    assert torch.equal(decoder(z, decoder.conv_in.once(features)), decoder.basis.decode(z))


def test_the_portraits_share_of_a_convolution_is_that_of_all_its_channels(draw: Draw) -> None:
    conv, changing, staying = FirstConv(5, 3, 7), draw(4, 5, 6, 6), draw(1, 3, 6, 6)
    whole = F.conv2d(torch.cat([changing, staying.expand(4, -1, -1, -1)], 1), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(changing, conv.once(staying)), whole)


def test_teeth_move_as_the_skin_beside_the_nose_does() -> None:
    side = CONFIG.mouth_size
    edges, motion = ToothEdges(side), torch.zeros(3, 3, side // 4, side // 4)
    motion[1:, 0] = 2.0  # px of 128, backward: all has moved 8 px to the left
    motion[2, :2, 16:] += torch.randn(2, 20, 36)  # lips and jaw may do what they like
    still, moved, speaking = (row.detach() for row in edges(motion))
    torch.testing.assert_close(moved[..., :-8], still[..., 8:], rtol=0, atol=1e-4)
    torch.testing.assert_close(speaking, moved, rtol=0, atol=1e-4)
    # In the picture a tooth's edge is a line downwards, in the middle between the incisors first of all.
    assert still[0, :, side // 2 - 1 : side // 2 + 1].min() > 0.9 and still[0, :, side // 2 + 6].max() < 0.1
    aside = edges(motion[:1], torch.tensor([3.0]))[0].detach()
    torch.testing.assert_close(aside[..., 3:], still[..., :-3], rtol=0, atol=1e-4)


def test_a_turned_head_takes_its_teeth_along() -> None:
    """Roll and yaw are linear in place: what is seen above the lips goes on below."""
    side = CONFIG.mouth_size
    down, axis = ((torch.arange(count) + 0.5) / count * 2 - 1 for count in (side, side // 4))
    motion = torch.zeros(1, 3, side // 4, side // 4)
    motion[0, 0] = 1.0 + 0.5 * axis[:, None] - 0.8 * axis
    found = ToothEdges(side)(motion).detach()[0, 0]
    middle = torch.stack([row[62:76].argmax() + 62 for row in found]).float()
    expected = side / 2 - (4 + 2 * down) / (1 - 4 * 0.8 / (side / 2)) - 0.5
    torch.testing.assert_close(middle, expected, rtol=0, atol=1.2)


def test_shapes_and_ranges(draw: Draw) -> None:
    side = CONFIG.mouth_size
    face, mouth = AppearanceEncoder(CONFIG)(draw(1, 3, 512, 512), draw(1, 3, side, side))
    assert face.shape == (1, CONFIG.reference_channels, 32, 32)
    assert mouth.shape == (1, CONFIG.reference_channels, side // 4, side // 4)
    motion = torch.zeros(2, 3, side // 4, side // 4)
    motion[:, 2, :, side // 8 :] = 1
    painter = MouthPainter(CONFIG)
    painted = painter(draw(2, 3, side, side), motion, painter.conv_in.once(mouth))
    assert painted.shape == (2, 4, side, side)
    share = painted[:, 3]
    assert 0 <= share.min() and share.max() <= 1
    assert share[:, :, side // 2 + 8 :].min() > share[:, :, : side // 2 - 8].max(), "holes are painted first"
