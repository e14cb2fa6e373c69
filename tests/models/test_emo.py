"""The whole: what each input does to a denoising call, and that rows, frames and avatars keep to themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from emo_live.config import TINY
from emo_live.models.backbone import Backbone, Conditions
from emo_live.models.checkpoints.hallo import HALLO, published_banks, published_tokens
from emo_live.models.emo import Portrait, TinyEmo
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.reference_net import ReferenceNet

Draw = Callable[..., Tensor]
Randomised = Callable[[nn.Module], nn.Module]
B, T, N = 2, 3, TINY.emo.motion_frames
TIMES = torch.tensor([[999, 500, 3], [20, 999, 700]])


class Scene:
    """Inputs of a denoising call for two avatars."""

    def __init__(self, tiny: TinyEmo, draw: Draw):
        self.tiny = tiny
        self.portrait = tiny.prepare(draw(B, 3, 256, 256), draw(B, 4, 128, 128).sigmoid())
        self.motion_latents, self.noisy = draw(B, N, 16, 16, 16), tiny.fold(draw(B, T, 32, 16, 16))
        self.audio, self.speed = draw(B, T, 8, 128), draw(B, T, 64)
        self.motion = tiny.motion_bank(self.motion_latents, self.portrait)

    def velocity(self, **changes: object) -> Tensor:
        given = {
            "noisy": self.noisy,
            "timesteps": TIMES,
            "portrait": self.portrait,
            "motion": self.motion,
            "audio": self.audio,
            "speed": self.speed,
        }
        return self.tiny.velocity(**given | changes)


@pytest.fixture
def scene(tiny: TinyEmo, draw: Draw) -> Scene:
    return Scene(tiny, draw)


def rows_of(portrait: Portrait, row: slice) -> Portrait:
    masks = tuple((full[row], face[row], lip[row]) for full, face, lip in portrait.masks)
    bank = {name: value[row] for name, value in portrait.bank.items()}
    return Portrait(portrait.code[row], bank, portrait.locator[row], masks)


def test_avatars_of_a_batch_keep_to_themselves(scene: Scene) -> None:
    """Also with a different timestep for every frame."""
    together = scene.velocity()
    for i in range(B):
        row = slice(i, i + 1)
        alone = scene.velocity(
            noisy=scene.noisy[row],
            timesteps=TIMES[row],
            portrait=rows_of(scene.portrait, row),
            motion={name: value[row] for name, value in scene.motion.items()},
            audio=scene.audio[row],
            speed=scene.speed[row],
        )
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


def test_a_frame_with_its_own_timestep_is_that_frame_run_alone(randomised: Randomised, draw: Draw) -> None:
    """Without temporal layers, which are there to mix frames."""
    config = replace(TINY.emo.backbone, motion=None, audio=None)
    model, x, times = (
        randomised(Backbone(config)),
        draw(3, TINY.emo.backbone.in_channels, 8, 8),
        torch.tensor([999, 500, 3]),
    )
    together = model(x, times, Conditions())
    for i in range(3):
        alone = model(x[i : i + 1], times[i : i + 1], Conditions())
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
    assert (together - model(x, torch.full((3,), 999), Conditions()))[1:].abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"motion": None},
        {"audio": None},
        {"speed": None},
        {"timesteps": TIMES.flip(0)},
        {"audio_scales": (1.0, 1.0, 0.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_matters(scene: Scene, change: dict[str, object]) -> None:
    assert (scene.velocity() - scene.velocity(**change)).abs().amax((2, 3, 4)).min() > 1e-3, "in every frame"


@pytest.mark.parametrize("part", ["bank", "locator", "masks"])
def test_every_part_of_the_portrait_matters(scene: Scene, part: str) -> None:
    portrait = scene.portrait
    without = {
        "bank": {},
        "locator": torch.zeros_like(portrait.locator),
        "masks": tuple(tuple(torch.zeros_like(mask) for mask in level) for level in portrait.masks),
    }
    changed = scene.velocity(portrait=replace(portrait, **{part: without[part]}))
    assert (scene.velocity() - changed).abs().amax((2, 3, 4)).min() > 1e-3


def test_motion_frames_count_through_every_motion_module(scene: Scene) -> None:
    """Other motion frames change the result at each layer that is given them, if only that layer is."""
    plain, bank = scene.velocity(), scene.motion
    other = scene.tiny.motion_bank(scene.motion_latents.flip(0), scene.portrait)
    for layer in bank:
        changed = scene.velocity(motion={name: (other if name == layer else bank)[name] for name in bank})
        assert (plain - changed).abs().max() > 1e-4, layer


def test_locator_features_are_added_behind_conv_in(randomised: Randomised, draw: Draw) -> None:
    model = randomised(Backbone(replace(TINY.emo.backbone, motion=None, audio=None)))
    x, times, locator = draw(3, TINY.emo.backbone.in_channels, 8, 8), torch.tensor([999, 500, 3]), draw(1, 96, 8, 8)
    ours = model(x, times, Conditions(locator=locator))
    hook = model.conv_in.register_forward_hook(lambda module, given, out: out + locator)
    assert torch.equal(model(x, times, Conditions()), ours)
    hook.remove()
    assert not torch.equal(model(x, times, Conditions()), ours)


def test_the_portrait_is_the_zero_of_motion(scene: Scene) -> None:
    """Motion frames that do not move have the portrait's own features."""
    still = scene.tiny.motion_bank(torch.zeros_like(scene.motion_latents), scene.portrait)
    for name, rows in scene.portrait.bank.items():
        torch.testing.assert_close(still[name], rows[:, None].expand_as(still[name]), rtol=0, atol=1e-5)


def test_masks_of_the_tiny_model(tiny: TinyEmo, draw: Draw) -> None:
    """Left half face, a quarter of it lips; the whole is what is no face."""
    mask = torch.zeros(1, 4, 128, 128)
    mask[:, 0, :, :64] = 1
    mask[:, 2, 64:, :32] = 0.5
    for level, (full, face, lip) in enumerate(tiny.prepare(draw(1, 3, 256, 256), mask).masks):
        side = 8 >> level
        square = torch.zeros(side, side)
        square[:, : side // 2] = 1
        assert torch.equal(face.view(side, side), square)
        assert torch.equal(full, 1 - face)
        assert lip.view(side, side).sum() == (side // 2) * (side // 4), "lips fill a cell at most by half: doubled"


def test_folding_is_undone(tiny: TinyEmo, draw: Draw) -> None:
    z = draw(2, 3, 16, 16, 16)
    assert tiny.fold(z).shape == (2, 3, 64, 8, 8)
    assert torch.equal(tiny.unfold(tiny.fold(z)), z)


def test_reference_net_has_no_head_and_no_frames() -> None:
    for wrong in (TINY.emo.backbone, replace(TINY.emo.backbone, out_channels=None)):
        with pytest.raises(AssertionError, match="ReferenceNet"):
            ReferenceNet(wrong)


def test_published_guidance_deals_rows_out() -> None:
    """Rows: portrait and two motion frames of each half. Frame i reads portrait (T + i) mod 2."""
    tokens = published_tokens(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), pictures=3)
    assert tokens.flatten().tolist() == [0, 1, 0, 1, 0, 1]
    bank = {"layer": torch.arange(6.0).view(6, 1, 1)}
    for frames, turns in ((4, [0, 3, 0, 3]), (3, [3, 0, 3])):
        reference, plain, full = (part["layer"].flatten().tolist() for part in published_banks(bank, frames))
        assert (reference, plain, full) == (turns, [1, 2], [4, 5])


def test_unconditional_side(randomised: Randomised, draw: Draw) -> None:
    """No reference, no locator, the tokens of an unknown face; masks and latents stay."""
    small = replace(
        HALLO,
        backbone=replace(HALLO.backbone, block_channels=(32,) * 4, context_width=32, audio=None, motion=None),
        reference=replace(HALLO.reference, block_channels=(32,) * 4, context_width=32),
        locator=replace(HALLO.locator, block_channels=(4, 4, 4, 4), out_channels=32),
        audio_projection=replace(HALLO.audio_projection, width=4, hidden=4, tokens=2, token_width=4),
        face_projection=replace(HALLO.face_projection, token_width=32),
    )
    model = randomised(LatentEmo(small))
    portrait = model.prepare(draw(1, 4, 16, 16), draw(1, 3, 128, 128), (), draw(1, 512))
    plain = model.unconditional(portrait)
    assert plain.bank == {} and portrait.bank
    assert plain.locator.abs().max() == 0 < portrait.locator.abs().max()
    assert torch.equal(plain.tokens, model.imageproj(torch.zeros(1, 512)))
    assert not torch.equal(plain.tokens, portrait.tokens)
    assert plain.code is portrait.code
