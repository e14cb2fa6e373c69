"""Temporal layers: motion frames join on the frame axis and are cut off; norms are per frame; velocity is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from emo_live.config import MotionModuleConfig
from emo_live.models.temporal import MotionModule, PositionCodes

Draw = Callable[..., Tensor]
CONFIG = MotionModuleConfig(heads=2, attention_blocks=2, max_frames=12, speed_width=6, without_reference=True)
B, N, T, C, H, W = 2, 2, 3, 8, 2, 3


@pytest.fixture(scope="module")
def module(randomised: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomised(MotionModule(C, CONFIG, groups=2, factor=2))


def test_starts_as_nothing_added(draw: Draw) -> None:
    x = draw(B * T, C, H, W)
    assert torch.equal(MotionModule(C, CONFIG, groups=2, factor=2)(x, B, None, None), x)


def test_motion_frames_are_frames_in_front(module: nn.Module, draw: Draw) -> None:
    x, motion = draw(B, T, C, H, W), draw(B, N, H * W, C)
    out = module(x.flatten(0, 1), B, motion, None)
    assert out.shape == (B * T, C, H, W)
    pictures = motion.transpose(2, 3).unflatten(3, (H, W))
    whole = module(torch.cat([pictures, x], 1).flatten(0, 1), B, None, None).unflatten(0, (B, N + T))
    torch.testing.assert_close(out, whole[:, N:].flatten(0, 1), rtol=0, atol=1e-5)
    assert (out - module(x.flatten(0, 1), B, None, None)).abs().max() > 0.05


def test_no_motion_frames_is_none(module: nn.Module, draw: Draw) -> None:
    x = draw(B * T, C, H, W)
    assert torch.equal(module(x, B, draw(B, 0, H * W, C), None), module(x, B, None, None))


def test_places_do_not_see_each_other(module: nn.Module, draw: Draw) -> None:
    """Apart from each picture's own norm: swapping places swaps the output."""
    x = draw(B * T, C, H, W)
    torch.testing.assert_close(module(x.flip(3), B, None, None), module(x, B, None, None).flip(3), rtol=0, atol=1e-5)


def test_norm_is_per_frame(module: nn.Module, draw: Draw) -> None:
    """A brighter motion frame reaches the others through attention only, behind its norm, which takes that out."""
    x, motion = draw(B * T, C, H, W), draw(B, N, H * W, C)
    brighter = motion.clone()
    brighter[:, 0] = brighter[:, 0] * 50 + 3
    torch.testing.assert_close(module(x, B, brighter, None), module(x, B, motion, None), rtol=0, atol=1e-4)


def test_speed_is_read_by_its_own_avatar(module: nn.Module, draw: Draw) -> None:
    x, motion, speed = draw(B * T, C, H, W), draw(B, N, H * W, C), draw(B, T, 6)
    out = module(x, B, motion, speed).unflatten(0, (B, T))
    assert (out - module(x, B, motion, None).unflatten(0, (B, T))).abs().max() > 0.01
    for i in range(B):
        alone = module(x.unflatten(0, (B, T))[i], 1, motion[i : i + 1], speed[i : i + 1])
        torch.testing.assert_close(out[i], alone, rtol=0, atol=1e-5)


def test_position_codes() -> None:
    codes = PositionCodes(4, 3)(torch.zeros(1, 3, 4))[0]
    position = torch.arange(3.0)
    expected = [position.sin(), position.cos(), (position / 100).sin(), (position / 100).cos()]
    torch.testing.assert_close(codes, torch.stack(expected, 1))
