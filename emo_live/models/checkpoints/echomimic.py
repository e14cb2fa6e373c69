"""EchoMimic v1 and its accelerated variant: config, and which of its files becomes which part of LatentEmo.

attn2 reads the sound (five states of whisper-tiny's encoder, ten steps of 20 ms around a frame) and counts three times.
There are no audio modules, no face tokens and no motion frames; all motion modules run. Sources: arXiv 2407.08136 and
the published inference code (Apache-2.0); facts checked by tests/golden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from emo_live.config import AudioProjectionConfig, EmoConfig, FaceLocatorConfig, WhisperConfig
from emo_live.models.checkpoints import sd15

ECHOMIMIC = EmoConfig(
    name="echomimic",
    backbone=replace(sd15.UNET, out_channels=4, context_width=384, context_gain=3.0, motion=sd15.MOTION),
    reference=sd15.UNET,
    locator=FaceLocatorConfig(in_channels=1, block_channels=(16, 32, 96, 256), out_channels=320),
    audio_projection=AudioProjectionConfig(frames=5, blocks=10, width=384, hidden=None, tokens=50, token_width=384),
    face_projection=None,
    speed=None,
    schedule=sd15.SCHEDULE,
    motion_frames=0,
    audio_look_ahead=2,
)

WHISPER = WhisperConfig(mels=80, width=384, heads=6, layers=4, tokens=1500)

# Part of a file's name -> prefix of its keys here. The denoiser is spread over two files; `_acc` files have the same
# keys. Later files win where old training dumps repeat keys, which is upstream's order of loading.
FILES = {
    "reference_unet": "reference_unet.",
    "motion_module": "denoising_unet.",
    "denoising_unet": "denoising_unet.",
    "face_locator": "face_locator.",
}


def join_files(files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """State dict of each part, named as in FILES -> the state dict of LatentEmo(ECHOMIMIC)."""
    return {prefix + key: value for part, prefix in FILES.items() for key, value in files[part].items()}
