"""Published sizes under the rolling window, on small random models: what continues, what belongs to a frame, and that
what the published pipelines get wrong is right here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engine_mini import SIZE, backend, drive, generator, mini_folder, speech, window  # noqa: E402

from emo_live.engine.latent_generator import LatentGenerator  # noqa: E402
from emo_live.engine.live import LiveSettings  # noqa: E402
from emo_live.engine.published import OVERLAP  # noqa: E402
from emo_live.engine.window import Controls, NextWindow  # noqa: E402
from emo_live.errors import EngineError  # noqa: E402
from emo_live.models.sampler import SAMPLERS  # noqa: E402

MODELS = ("hallo", "echomimic")


def asked(made: LatentGenerator, index: int, length: int, motion: list[Any], sound: Any = None) -> NextWindow:
    sound = np.zeros(made.context_samples, np.float32) if sound is None else sound
    return NextWindow(index, length, motion, sound, lambda: None)


def videos(made: LatentGenerator, steps: int, *lengths: int, every: int = 1) -> np.ndarray:
    frames = drive(window(made, *lengths), speech(steps), every)
    assert [frame.index for frame in frames] == list(range(steps))
    assert all(frame.video.shape == (SIZE, SIZE, 3) and frame.video.dtype == np.uint8 for frame in frames)
    return np.stack([frame.video for frame in frames])


@pytest.mark.parametrize("model", MODELS)
def test_chunks_and_seeds(model: str) -> None:
    """The same seed makes the same frames however the sound came; another one makes others."""
    one = videos(generator(model, seed=3), 5)
    assert np.array_equal(one, videos(generator(model, seed=3), 5, every=4))
    other = videos(generator(model, seed=4), 5)
    assert np.abs(one.astype(int) - other).mean() > 1
    assert len({frame.tobytes() for frame in one}) == 5


@pytest.mark.parametrize("model", MODELS)
def test_windows_continue_from_the_one_before(model: str) -> None:
    """Upstream's eval() drops motion frames in most blocks; EchoMimic has none, its windows overlap."""
    made = generator(model, steps=2)
    own = list(made.latents(asked(made, 0, 4, list(made.first()))))
    foreign = [latents + 0.5 for latents in own]
    after = [made.latents(asked(made, 4, 4, motion[-made.carried :])) for motion in (own, foreign)]
    assert (after[0] - after[1]).abs().mean() > 0.01
    assert torch.equal(after[0], made.latents(asked(made, 4, 4, own[-made.carried :])))


def test_before_the_first_frame_stands_the_portrait() -> None:
    hallo, echomimic = generator("hallo"), generator("echomimic")
    assert [torch.equal(z, hallo.portrait.code[-1]) for z in hallo.first()] == [True, True]
    assert (list(echomimic.first()), echomimic.carried) == ([], OVERLAP)


def test_frames_that_are_known_are_not_made_anew() -> None:
    """EchoMimic's overlap conditions the new frames; it is cut off again."""
    made = generator("echomimic", steps=2)
    known = list(made.latents(asked(made, 0, 4, [])))
    assert len(made.latents(asked(made, 4, 3, known))) == 3
    longer = made.latents(asked(made, 0, 7, []))
    assert (longer[4:] - made.latents(asked(made, 4, 3, known))).abs().mean() > 0.01, "two ways of making them"


@pytest.mark.parametrize("model", MODELS)
def test_motion_modules_without_attention_run_in_echomimic_only(model: str) -> None:
    """The published Hallo has five of them and never runs them: here they are not even kept."""
    made = generator(model)
    if model == "hallo":
        names = [name for name in made.backend.model.state_dict() if "down_blocks.3" in name or "up_blocks.0" in name]
        assert names and not any("denoising" in name and "motion_modules" in name for name in names)
        return
    before = made.latents(asked(made, 0, 2, list(made.first())))
    net = made.backend.model.denoising_unet
    idle = [net.down_blocks[3].motion_modules, net.up_blocks[0].motion_modules]
    weights = [value for modules in idle for name, value in modules.named_parameters() if "proj_out" in name]
    assert len(weights) == 10
    kept = [value.clone() for value in weights]
    try:
        for value in weights:
            value.zero_()
        after = made.latents(asked(made, 0, 2, list(made.first())))
    finally:
        for value, old in zip(weights, kept, strict=True):
            value.copy_(old)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("model", MODELS)
def test_guidance(model: str) -> None:
    """1 is none at all, which published pipelines cannot do; more leads away from what is unheard and unseen."""
    plain, strong = generator(model), generator(model, guidance=3.5)
    assert (len(plain.portrait.code), len(strong.portrait.code)) == (1, 2)
    z = [made.latents(asked(made, 0, 2, list(made.first()))) for made in (plain, strong)]
    assert (z[0] - z[1]).abs().mean() > 0.05
    strong.backend.guidance = 1.0
    try:
        nearly = strong.latents(asked(strong, 0, 2, list(strong.first())))
    finally:
        strong.backend.guidance = 3.5
    torch.testing.assert_close(nearly, z[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_gives_the_same_frames_twice(name: str) -> None:
    """Also those that draw noise between their steps: it belongs to the frame and the step."""
    made = [generator("hallo", steps=2, sampler=name, seed=5) for _ in range(2)]
    first, again = (m.latents(asked(m, 0, 2, list(m.first()))) for m in made)
    assert torch.equal(first, again) and bool(torch.isfinite(first).all())
    made[0].adjust(LiveSettings(steps=1))
    assert len(made[0].sampler.timesteps) == 1
    assert not torch.equal(first, made[0].latents(asked(made[0], 0, 2, list(made[0].first()))))


def test_both_codecs() -> None:
    sd, taesd = (videos(generator("hallo", vae=vae), 4) for vae in ("sd", "taesd"))
    assert np.abs(sd.astype(int) - taesd).mean() > 1


def test_sound_and_strength_of_motion_show() -> None:
    made = generator("hallo")
    sound = np.random.default_rng(0).normal(0, 0.1, made.context_samples).astype(np.float32)
    z = made.latents(asked(made, 8, 2, list(made.first()), sound))
    assert (z - made.latents(asked(made, 8, 2, list(made.first()), sound[::-1].copy()))).abs().mean() > 1e-3
    made.adjust(LiveSettings(Controls(motion=0.2)))
    assert (z - made.latents(asked(made, 8, 2, list(made.first()), sound))).abs().mean() > 1e-3


def test_only_sound_that_was_there_is_heard() -> None:
    """Normalising over silence before the beginning would make the first words louder."""
    made, heard = generator("hallo"), []
    given = made.backend.hear
    made.backend.hear = lambda pcm, frames: heard.append(len(pcm)) or given(pcm, frames)  # type: ignore[func-returns-value]
    try:
        made.latents(asked(made, 0, 2, list(made.first())))
        made.latents(asked(made, 4000, 2, list(made.first())))
    finally:
        made.backend.hear = given
    assert heard == [4 * 640, made.context_samples]


def test_latents_are_carried_and_what_that_changes() -> None:
    """Published pipelines decode, clamp and encode between windows. The difference is that of one trip through the VAE,
    and how far it moves the next window is measured in docs/published.md."""
    made = generator("hallo", steps=2)
    z = made.latents(asked(made, 0, 4, list(made.first())))[-2:]
    trip = made.backend.codec.encode(made.backend.codec.decode(z))
    carried, through_pixels = (made.latents(asked(made, 4, 4, list(motion))) for motion in (z, trip))
    moved, by = (trip - z).abs().mean(), (carried - through_pixels).abs().mean()
    assert moved > 0.01 and 0 < by < moved


def test_cancel_and_rewind() -> None:
    made = generator("hallo", steps=3)
    shown = window(made)
    calls = []
    velocity = made.backend.velocity

    def cancelling(*given: Any) -> Any:
        calls.append(given[1])
        if len(calls) == 2:
            shown.cancel()
        return velocity(*given)

    for step in speech(5):
        shown.push(step)
    made.backend.velocity = cancelling  # type: ignore[method-assign]
    try:
        assert shown.frames() == [] and len(calls) == 2, "the third of three steps was not taken"
    finally:
        made.backend.velocity = velocity  # type: ignore[method-assign]
    shown.rewind(0)
    first = drive(shown, speech(4))
    assert [frame.index for frame in first] == list(range(4))
    straight = videos(generator("hallo", steps=3), 4)
    assert all(np.array_equal(frame.video, video) for frame, video in zip(first, straight, strict=True))


def test_rewinding_to_the_beginning_forgets_what_was_shown() -> None:
    made = window(generator("echomimic", steps=2))
    first = drive(made, speech(4))
    made.rewind(0)
    assert all(np.array_equal(a.video, b.video) for a, b in zip(first, drive(made, speech(4)), strict=True))


def test_pictures_in_the_making_are_those_of_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: a window's pictures may still be decoded while the next is generated."""
    from emo_live.engine.window import RollingWindow, WindowPolicy

    plain = videos(generator("hallo"), 6)
    shown = RollingWindow(generator("hallo"), WindowPolicy((2,), beside=1))
    came = []
    for step in speech(6):
        shown.push(step)
        came.append(len(shown.frames()))
    assert sum(came) == 2, "the second window is still in the making"
    shown.finish()
    rest = shown.frames()
    assert [frame.index for frame in rest] == [2, 3, 4, 5]
    assert all(np.array_equal(frame.video, video) for frame, video in zip(rest, plain[2:], strict=True))


def test_latents_that_are_no_numbers_are_an_error() -> None:
    made = generator("hallo")
    made.portrait = replace(made.portrait, locator=made.portrait.locator * float("nan"))
    with pytest.raises(EngineError, match="not numbers"):
        made.latents(asked(made, 0, 2, list(made.first())))


def test_running_out_of_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator("hallo")

    def greedy(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(made.backend, "compiled", greedy)
    with pytest.raises(EngineError, match="guidance 1"):
        made.latents(asked(made, 0, 2, list(made.first())))


def test_half_precision_is_close() -> None:
    exact = generator("hallo")
    half = generator("hallo", dtype="bfloat16")
    assert {value.dtype for name, value in half.backend.model.state_dict().items() if ".pe" not in name} == {
        torch.bfloat16
    }
    z = [made.latents(asked(made, 0, 2, list(made.first()))) for made in (exact, half)]
    assert 0 < (z[0] - z[1]).abs().mean() < 0.1 * z[0].abs().mean()
    assert mini_folder("hallo").is_dir() and backend("hallo", guidance=1.0).dtype == torch.float32


def test_compiling_is_asked_for_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(call) or call)
    assert (backend("hallo", guidance=1.0).compiled.mode, compiled) == ("eager", [])
    made = generator("hallo", compile=True)
    assert made.backend.compiled.mode == "compile" and len(compiled) == 1
    assert "CUDA graphs need a CUDA device" in made.backend.compiled.why
    plain = generator("hallo")
    z = [m.latents(asked(m, 0, 1, list(m.first()))) for m in (made, plain)]
    assert torch.equal(*z)


def test_every_attention_kernel_makes_the_same() -> None:
    z = [
        m.latents(asked(m, 0, 1, list(m.first()))) for m in (generator("hallo"), generator("hallo", attention="matmul"))
    ]
    torch.testing.assert_close(*z, rtol=0, atol=1e-4)
