"""Guidance in one call, and several people in one batch: every row is as if it were alone."""

from __future__ import annotations

from typing import cast

import pytest

torch = pytest.importorskip("torch")

from mini_checkpoint import MINI_CONFIGS, mini_state  # noqa: E402
from torch import Tensor  # noqa: E402

from emo_live.models.emo import Masks, Portrait  # noqa: E402
from emo_live.models.latent_emo import LatentEmo  # noqa: E402
from emo_live.weights.manifest import Model  # noqa: E402

SIDE, FRAMES = 16, 3


def model_of(name: str) -> LatentEmo:
    model = LatentEmo(MINI_CONFIGS[cast(Model, name)]).eval().requires_grad_(False)
    model.load_state_dict({key: value.float() for key, value in mini_state(cast(Model, name)).items()})
    return model


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Given:
    """Two people, with everything of their own."""

    def __init__(self, model: LatentEmo) -> None:
        config = model.config
        self.code, self.noisy = draw(1, 2, 4, SIDE, SIDE), draw(2, 2, FRAMES, 4, SIDE, SIDE)
        self.region = draw(3, 2, config.locator.in_channels, 8 * SIDE, 8 * SIDE).sigmoid()
        self.masks: Masks = ()
        if config.backbone.audio is not None:
            sides = [SIDE >> level for level in range(4)]
            self.masks = tuple(tuple(draw(10 * i + s, 2, s * s).sigmoid() for i in range(3)) for s in sides)  # type: ignore[misc]
        self.face = draw(4, 2, 512)
        self.audio = draw(5, 2, FRAMES, config.audio_projection.tokens, config.audio_projection.token_width)
        self.motion = draw(6, 2, 2, 4, SIDE, SIDE)
        self.times = torch.full((2, FRAMES), 759)

    def portrait(self, model: LatentEmo, rows: slice) -> Portrait:
        masks = tuple(tuple(mask[rows] for mask in level) for level in self.masks)
        return model.prepare(self.code[rows], self.region[rows], masks, self.face[rows])  # type: ignore[arg-type]

    def velocity(self, model: LatentEmo, rows: slice, portrait: Portrait, audio: Tensor, copies: int = 1) -> Tensor:
        bank = None
        if model.config.motion_frames:
            bank = model.motion_bank(self.motion[rows].repeat(copies, 1, 1, 1, 1), portrait)
        noisy, times = self.noisy[rows].repeat(copies, 1, 1, 1, 1), self.times[rows].repeat(copies, 1)
        return model.velocity(noisy, times, portrait, bank, audio, None, (0.9, 1.1, 1.3))


@pytest.mark.parametrize("name", ["hallo", "echomimic"])
def test_both_halves_in_one_call_and_people_in_one_batch(name: str) -> None:
    """Published code deals face tokens and references out to wrong rows as soon as there are several."""
    model = model_of(name)
    given, together = Given(model), slice(0, 2)
    portrait = model.with_guidance(given.portrait(model, together))
    audio = torch.cat([torch.zeros_like(given.audio), given.audio])
    halves = given.velocity(model, together, portrait, audio, copies=2).unflatten(0, (2, 2))
    for person in range(2):
        rows = slice(person, person + 1)
        alone = given.portrait(model, rows)
        plain = given.velocity(model, rows, model.unconditional(alone), torch.zeros_like(given.audio[rows]))
        heard = given.velocity(model, rows, alone, given.audio[rows])
        torch.testing.assert_close(halves[0, person], plain[0], rtol=0, atol=2e-5)
        torch.testing.assert_close(halves[1, person], heard[0], rtol=0, atol=2e-5)
        assert (plain - heard).abs().max() > 0.1
    assert (halves[1, 0] - halves[1, 1]).abs().max() > 0.1


def test_an_order_of_its_own_for_each_person() -> None:
    """Whoever comes first in the batch does not matter."""
    model = model_of("hallo")
    given = Given(model)
    one = given.velocity(model, slice(0, 2), given.portrait(model, slice(0, 2)), given.audio)
    for name in ("code", "noisy", "region", "face", "audio", "motion"):
        setattr(given, name, getattr(given, name).flip(0))
    given.masks = tuple(tuple(mask.flip(0) for mask in level) for level in given.masks)  # type: ignore[misc]
    other = given.velocity(model, slice(0, 2), given.portrait(model, slice(0, 2)), given.audio)
    torch.testing.assert_close(other.flip(0), one, rtol=0, atol=2e-5)
