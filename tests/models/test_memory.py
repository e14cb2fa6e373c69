"""The estimate of memory against torch's own accounting, and against the parts that it counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_mini import mini_folder
from torch.profiler import ProfilerActivity, profile

from emo_live import hardware
from emo_live.config import BackboneConfig, EmoConfig
from emo_live.engine.backend_latent import DECODED_TOGETHER, fitting_window
from emo_live.errors import BadInputError
from emo_live.models import memory
from emo_live.models.checkpoints.echomimic import ECHOMIMIC, WHISPER
from emo_live.models.checkpoints.hallo import HALLO
from emo_live.models.latent_emo import LatentEmo
from emo_live.weights import open_model

PUBLISHED = pytest.mark.parametrize("published", [HALLO, ECHOMIMIC], ids=lambda config: config.name)
SIZE_PX, FRAMES = 128, 3


def smaller(config: EmoConfig) -> EmoConfig:
    """The same layers, narrower."""

    def narrow(backbone: BackboneConfig) -> BackboneConfig:
        audio = None if backbone.audio is None else replace(backbone.audio, width=48)
        context = None if backbone.context_width is None else 48
        return replace(backbone, block_channels=(32, 64, 128, 128), context_width=context, audio=audio)

    projection = replace(config.audio_projection, width=48, token_width=48)
    face = None if config.face_projection is None else replace(config.face_projection, token_width=48)
    return replace(
        config,
        backbone=narrow(config.backbone),
        reference=narrow(config.reference),
        locator=replace(config.locator, out_channels=32),
        audio_projection=replace(projection, hidden=None if projection.hidden is None else 48),
        face_projection=face,
    )


@PUBLISHED
@pytest.mark.parametrize("batch", [1, 2])
def test_activations_are_what_torch_allocates(published: EmoConfig, batch: int) -> None:
    config, side = smaller(published), SIZE_PX // 8
    model, projection = LatentEmo(config).eval().requires_grad_(False), config.audio_projection
    model.denoising_unet.drop_unused()
    assert memory.weight_count(config) == sum(value.numel() for value in model.state_dict().values())
    with torch.inference_mode():
        region = torch.ones(batch, config.locator.in_channels, SIZE_PX, SIZE_PX)
        masks = tuple((torch.ones(batch, (side >> level) ** 2),) * 3 for level in range(4))
        portrait = model.prepare(torch.randn(batch, 4, side, side), region, masks, torch.ones(batch, 512))
        motion = model.motion_bank(torch.randn(batch, 2, 4, side, side), portrait) if config.motion_frames else None
        sound = model.audioproj(torch.randn(batch, FRAMES, projection.frames, projection.blocks, projection.width))
        noisy, times = torch.randn(batch, FRAMES, 4, side, side), torch.full((batch, FRAMES), 999)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            model.velocity(noisy, times, portrait, motion, sound, None)
    assert sum(value.numel() for value in portrait.bank.values()) == batch * memory.bank_values(config, SIZE_PX)
    allocated = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(allocated, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    estimate = memory.denoising_values(config, SIZE_PX, FRAMES, batch) * 4
    assert peak < estimate < 1.25 * peak


@PUBLISHED
def test_unused_modules_are_never_missed(published: EmoConfig) -> None:
    config, side = smaller(published), 8
    model, projection = LatentEmo(config).eval().requires_grad_(False), config.audio_projection
    before = len(model.state_dict())

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        region = torch.ones(1, config.locator.in_channels, side * 8, side * 8)
        masks = tuple((torch.ones(1, (side >> level) ** 2),) * 3 for level in range(4))
        portrait = model.prepare(torch.randn(1, 4, side, side), region, masks, torch.ones(1, 512))
        sound = model.audioproj(torch.randn(1, 2, projection.frames, projection.blocks, projection.width))
        return model.velocity(torch.randn(1, 2, 4, side, side), torch.zeros(1, 2), portrait, None, sound, None)

    whole = run()
    model.denoising_unet.drop_unused()
    assert torch.equal(run(), whole)
    assert before - len(model.state_dict()) == (140 if published is HALLO else 0)


def test_need_of_published_sizes() -> None:
    """The goal: 8 GB at 512 px."""
    half = torch.float16
    assert memory.memory_need(HALLO, half, 512, 16, False) < 8e9
    assert memory.memory_need(HALLO, half, 512, 12, True) < 8e9
    assert memory.memory_need(ECHOMIMIC, half, 512, 16, True) < 8e9
    assert memory.memory_need(HALLO, torch.float32, 512, 16, False) > 12e9


@PUBLISHED
def test_need_grows_with_what_is_asked_for(published: EmoConfig) -> None:
    config, half = smaller(published), torch.float16
    least = memory.memory_need(config, half, 256, 4, False, vae="taesd")
    assert least > memory.RUNTIME_BYTES + 2 * memory.weight_count(config)
    for size_px, frames, guidance, dtype in [
        (512, 4, 0, half),
        (256, 16, 0, half),
        (256, 4, 1, half),
        (256, 4, 0, torch.float32),
    ]:
        assert memory.memory_need(config, dtype, size_px, frames, bool(guidance), vae="taesd") > least
    assert memory.memory_need(config, half, 512, 4, False, vae="sd", pictures_at_once=4) > memory.memory_need(
        config, half, 512, 4, False, vae="sd"
    )


@pytest.mark.slow
def test_parts_around_emo_are_counted_right() -> None:
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    widths = (128, 256, 512, 512)
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    from emo_live.models.audio import WhisperEncoder

    with torch.device("meta"):
        parts = {
            memory.CODEC_WEIGHTS["sd"]: diffusers.AutoencoderKL(
                block_out_channels=widths, down_block_types=down, up_block_types=up, layers_per_block=2
            ),
            memory.CODEC_WEIGHTS["taesd"]: diffusers.AutoencoderTiny(),
            memory.WAV2VEC_WEIGHTS: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()),
            memory.WHISPER_WEIGHTS: WhisperEncoder(WHISPER),
        }
    for count, part in parts.items():
        assert sum(value.numel() for value in part.state_dict().values()) == pytest.approx(count, rel=0.001)
    assert len(parts) == 4


def test_windows_are_as_long_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = replace(open_model(mini_folder("hallo")), config=HALLO)

    def need(frames: int) -> int:
        return memory.memory_need(HALLO, torch.float32, 512, frames, True, pictures_at_once=DECODED_TOGETHER)

    def fitting() -> int:
        return fitting_window(folder, "sd", torch.device("cpu"), torch.float32, (16, 12, 8), 512, True)

    for available, length in ((need(16), 16), (need(16) - 1, 12), (need(12) - 1, 8)):
        monkeypatch.setattr(hardware, "memory", lambda free=available: hardware.Memory(free, free, None))
        assert fitting() == length
    monkeypatch.setattr(hardware, "memory", lambda: hardware.Memory(None, need(8) - 1, None))
    with pytest.raises(BadInputError, match="needs about"):
        fitting()
