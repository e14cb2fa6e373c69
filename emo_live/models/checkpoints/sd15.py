"""What the checkpoints that grew out of Stable Diffusion 1.5 share: UNet, AnimateDiff's motion modules, noise."""

from __future__ import annotations

from emo_live.config import BackboneConfig, MotionModuleConfig, ScheduleConfig

# A ReferenceNet without attn2; a denoiser is this with a head, attn2 and motion modules.
UNET = BackboneConfig(
    in_channels=4,
    out_channels=None,
    block_channels=(320, 640, 1280, 1280),
    attention_levels=(True, True, True, False),
    layers_per_block=2,
    heads=8,
    norm_groups=32,
    feed_forward_factor=4,
    context_width=None,
    context_gain=1.0,
    audio=None,
    motion=None,
)

MOTION = MotionModuleConfig(heads=8, attention_blocks=2, max_frames=32, speed_width=None, without_reference=True)

# Training used scaled_linear betas; published pictures were sampled with linear ones, by diffusers' DDIM.
SCHEDULE = ScheduleConfig(1000, 0.00085, 0.012, "linear", zero_terminal_snr=True, fixed_stride=True)
