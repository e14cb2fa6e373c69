"""Audio tokens, masks and readers of audio-attention, and the truncated whisper encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from emo_live.config import AudioAttentionConfig, AudioProjectionConfig, WhisperConfig
from emo_live.models.audio import AudioBlock, AudioProjection, WhisperEncoder
from emo_live.models.emo import frame_windows

Draw = Callable[..., Tensor]
Randomised = Callable[[nn.Module], nn.Module]
PLACES, WIDTH = 6, 8
OFF, ON, FULL = torch.zeros(1, PLACES), torch.ones(1, PLACES), (1.0, 1.0, 1.0)


def block(randomised: Randomised, *, shared: bool) -> AudioBlock:
    config = AudioAttentionConfig(width=5, shared=shared, self_attention=False)
    made = randomised(AudioBlock(WIDTH, 2, config, factor=2))
    assert isinstance(made, AudioBlock)
    for layer in (made.zero_conv_full, made.zero_conv_face, made.zero_conv_lip):
        layer.bias.data.zero_()  # so that what is masked adds nothing
    return made


@pytest.mark.parametrize("shared", [False, True])
def test_sound_is_heard_where_a_mask_is(randomised: Randomised, draw: Draw, shared: bool) -> None:
    layer, x, sound, other = block(randomised, shared=shared), draw(1, PLACES, WIDTH), draw(1, 3, 5), draw(1, 3, 5)
    half = torch.cat([OFF[:, :3], ON[:, 3:]], 1)
    for i in range(3):
        masks = tuple(half if j == i else OFF for j in range(3))
        change = (layer(x, sound, masks, FULL) - layer(x, other, masks, FULL)).abs().amax(2)[0]
        assert change[:3].max() == 0
        assert change[3:].min() > 1e-3
    assert torch.equal(layer(x, sound, (OFF, OFF, OFF), FULL), layer(x, other, (OFF, OFF, OFF), FULL))


@pytest.mark.parametrize("shared", [False, True])
def test_masks_are_full_face_lip_in_this_order(randomised: Randomised, draw: Draw, shared: bool) -> None:
    layer, x, sound = block(randomised, shared=shared), draw(1, PLACES, WIDTH), draw(1, 3, 5)
    for i, name in enumerate(("full", "face", "lip")):
        masks = tuple(ON if j == i else OFF for j in range(3))
        before = layer(x, sound, masks, FULL)
        weight = layer.get_parameter(f"zero_conv_{name}.weight")
        kept = weight.data.clone()
        weight.data.zero_()
        assert torch.equal(layer(x, sound, masks, FULL), layer(x, sound, (OFF, OFF, OFF), FULL))
        assert not torch.equal(layer(x, sound, masks, FULL), before)
        weight.data.copy_(kept)


def test_strength_is_the_same_as_a_weaker_mask(randomised: Randomised, draw: Draw) -> None:
    layer, x, sound = block(randomised, shared=False), draw(1, PLACES, WIDTH), draw(1, 3, 5)
    scaled = layer(x, sound, (ON, ON, ON), (0.9, 0.5, 1.3))
    masked = layer(x, sound, (ON * 0.9, ON * 0.5, ON * 1.3), FULL)
    torch.testing.assert_close(scaled, masked, rtol=0, atol=1e-6)
    assert torch.equal(layer(x, sound, (ON,) * 3, (0.0,) * 3), layer(x, sound, (OFF,) * 3, FULL))


def test_shared_reader_is_three_equal_readers(randomised: Randomised, draw: Draw) -> None:
    one, three = block(randomised, shared=True), block(randomised, shared=False)
    state = one.state_dict()
    for reader in (1, 2):
        state |= {key.replace("attn2_0", f"attn2_{reader}"): value for key, value in state.items() if "attn2_0" in key}
    three.load_state_dict(state)
    x, sound, masks = draw(2, PLACES, WIDTH), draw(2, 3, 5), (ON, draw(1, PLACES), draw(2, PLACES))
    assert torch.equal(one(x, sound, masks, FULL), three(x, sound, masks, FULL))


def test_frames_see_their_neighbours_sound() -> None:
    """Two steps a frame, one neighbour on each side."""
    steps = torch.arange(10.0).view(1, 10, 1)
    expected = [[[0, 1], [2, 3], [4, 5]], [[2, 3], [4, 5], [6, 7]], [[4, 5], [6, 7], [8, 9]]]
    assert frame_windows(steps, 2, 1)[0, ..., 0].tolist() == expected


@pytest.mark.parametrize("hidden", [None, 7])
def test_projection_keeps_frames_apart(randomised: Randomised, draw: Draw, hidden: int | None) -> None:
    tokens = 4 if hidden else 6  # without a network every feature is a token
    config = AudioProjectionConfig(frames=3, blocks=2, width=5, hidden=hidden, tokens=tokens, token_width=5)
    layer, features = randomised(AudioProjection(config)), draw(2, 4, 3, 2, 5)
    out = layer(features)
    assert out.shape == (2, 4, tokens, 5)
    torch.testing.assert_close(out[1, 2], layer(features[1:, 2:3])[0, 0], rtol=0, atol=1e-6)
    if hidden is None:
        assert torch.equal(out, features.flatten(2, 3))


WHISPER = WhisperConfig(mels=6, width=16, heads=4, layers=4, tokens=12)


def published(encoder: nn.Module) -> dict[str, Tensor]:
    """The names of an OpenAI checkpoint, with what we do not take."""
    parts = ("query", "key", "value", "out")
    state = {"encoder.ln_post.weight": torch.ones(16), "decoder.token_embedding.weight": torch.ones(3, 16)}
    for key, value in encoder.state_dict().items():
        words = key.split(".")
        if len(words) > 2 and words[-2] in parts:
            words.insert(2, "attn")
        state["encoder." + ".".join(words)] = value.half()
    return state


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_truncated_whisper_is_the_beginning_of_the_whole(randomised: Randomised, draw: Draw, layers: int) -> None:
    whole = randomised(WhisperEncoder(WHISPER)).half().float()
    whole.positional_embedding.copy_(draw(12, 16).half().float())
    short = WhisperEncoder(replace(WHISPER, layers=layers)).eval().requires_grad_(False)
    short.load_published(published(whole))
    mel = draw(2, 6, 24)
    assert torch.equal(short(mel), whole.states(mel)[layers])


def test_shorter_context_takes_the_first_positions(randomised: Randomised, draw: Draw) -> None:
    whole = randomised(WhisperEncoder(WHISPER)).half().float()
    whole.positional_embedding.copy_(draw(12, 16).half().float())
    short = WhisperEncoder(replace(WHISPER, tokens=5)).eval().requires_grad_(False)
    short.load_published(published(whole))
    assert torch.equal(short.positional_embedding, whole.positional_embedding[:5])
    assert short(draw(1, 6, 10)).shape == (1, 5, 16)


def test_whisper_with_a_missing_tensor_is_refused(randomised: Randomised) -> None:
    state = published(randomised(WhisperEncoder(WHISPER)))
    del state["encoder.blocks.3.mlp.2.bias"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.mlp\.2\.bias"):
        WhisperEncoder(WHISPER).load_published(state)
