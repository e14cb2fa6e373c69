"""Frozen configs of every size of EMO that this package can build. No field has a default: a checkpoint is explicit.

`TINY` is our own model (assets, CPU). Published checkpoints are other values of the same classes.
Tensor letters: B batch, T frames, L audio tokens, D width, C channels, h w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POSE = 6  # values of a head's pose: yaw, pitch, roll in radians, x, y, z in cm
LIDS = slice(9, 11)  # eyeBlinkLeft and eyeBlinkRight among the ARKit weights, and so among the gestures


@dataclass(frozen=True, slots=True)
class AudioAttentionConfig:
    """Audio-attention layers (EMO 3.2) in Hallo's hierarchical form: a masked readout each for picture, face, lips."""

    width: int  # D of the audio tokens
    shared: bool  # True: one cross-attention serves the three masks; False: one each
    self_attention: bool  # spatial self-attention before the audio is read


@dataclass(frozen=True, slots=True)
class MotionModuleConfig:
    """Temporal layers (EMO 3.2, after AnimateDiff)."""

    heads: int
    attention_blocks: int  # temporal self-attentions per layer
    max_frames: int  # longest n + T that the position codes cover
    speed_width: int | None  # D of the speed features; None: no speed layers
    without_reference: bool  # False: layers without spatial attention are skipped, as in published Hallo


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """The SD-shaped denoising network and, with the temporal and audio parts None, the ReferenceNet."""

    in_channels: int
    out_channels: int | None  # None: a ReferenceNet, which has no output head
    block_channels: tuple[int, ...]
    attention_levels: tuple[bool, ...]  # which levels have spatial transformers (and read the reference)
    layers_per_block: int
    heads: int
    norm_groups: int
    feed_forward_factor: int
    context_width: int | None  # D of the tokens that attn2 reads (face tokens, or whisper in EchoMimic); None: no attn2
    context_gain: float
    audio: AudioAttentionConfig | None
    motion: MotionModuleConfig | None


@dataclass(frozen=True, slots=True)
class FaceLocatorConfig:
    in_channels: int
    block_channels: tuple[int, ...]  # every entry after the first halves the resolution
    out_channels: int


@dataclass(frozen=True, slots=True)
class AudioProjectionConfig:
    """Audio features around a frame -> the tokens that the Backbone reads."""

    frames: int  # 2m + 1
    blocks: int  # features per frame (hidden layers in Hallo, 20 ms steps in tiny, both in EchoMimic)
    width: int
    hidden: int | None  # None: no network, every feature is a token
    tokens: int
    token_width: int


@dataclass(frozen=True, slots=True)
class FaceProjectionConfig:
    """Embedding of the face (who it is) -> the tokens that attn2 reads."""

    width: int
    tokens: int
    token_width: int


@dataclass(frozen=True, slots=True)
class SpeedConfig:
    """Head-velocity buckets (EMO 3.2). Centres and radii in degrees a second."""

    centres: tuple[float, ...]
    radii: tuple[float, ...]
    context: int  # m neighbours on each side
    hidden: int
    width: int


@dataclass(frozen=True, slots=True)
class WhisperConfig:
    """Truncated whisper encoder as a streaming feature extractor."""

    mels: int
    width: int
    heads: int
    layers: int
    tokens: int  # context length in 20 ms tokens


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Motion latents: flow and holes at `flow_size` px <-> (latent_channels, latent_size, latent_size)."""

    flow_size: int
    patch: int
    latent_channels: int
    reference_channels: int
    flow_width: int
    flow_blocks: int
    mouth_size: int  # side of the painted square, px of the 512 px portrait
    mouth_width: int
    mouth_blocks: int

    @property
    def latent_size(self) -> int:
        return self.flow_size // self.patch


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    train_steps: int
    beta_start: float
    beta_end: float
    kind: Literal["linear", "scaled_linear"]  # how the betas grow: straight, or their roots do
    zero_terminal_snr: bool
    fixed_stride: bool  # DDIM goes down by train_steps // steps, as diffusers' does, even where that misses a timestep


@dataclass(frozen=True, slots=True)
class EmoConfig:
    """A whole model: what it is made of and how its window rolls."""

    name: str
    backbone: BackboneConfig
    reference: BackboneConfig
    locator: FaceLocatorConfig
    audio_projection: AudioProjectionConfig
    face_projection: FaceProjectionConfig | None
    speed: SpeedConfig | None
    schedule: ScheduleConfig
    motion_frames: int  # n
    audio_look_ahead: int  # frames of sound after a frame that its tokens may see


@dataclass(frozen=True, slots=True)
class GesturesConfig:
    """What a face does besides speaking, from noise: causal convolutions over time."""

    memories: tuple[float, ...]  # frames over which each value of the noise is smoothed
    taps: int  # frames that the smoothing looks back
    inertia: float  # frames over which the head pose that is drawn is smoothed once more
    inertia_taps: int
    width: int
    kernel: int
    dilations: tuple[int, ...]

    @property
    def noise(self) -> int:
        """Values a frame."""
        return len(self.memories)

    @property
    def reach(self) -> int:
        """Frames of noise before the first frame."""
        return self.taps - 1 + self.inertia_taps - 1 + (self.kernel - 1) * sum(self.dilations)


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """`emo` works on motion latents; `patch` folds (C, h, w) into (C * patch^2, h / patch, w / patch)."""

    emo: EmoConfig
    whisper: WhisperConfig
    autoencoder: AutoencoderConfig
    components: int  # of the motion prior
    gestures: GesturesConfig
    patch: int
    portrait_size: int  # px of the portrait that the portrait encoder sees
    portrait_channels: int
    mask_size: int  # px of the face locator's mask


def _tiny_backbone(*, denoiser: bool, in_channels: int) -> BackboneConfig:
    return BackboneConfig(
        in_channels=in_channels,
        out_channels=64 if denoiser else None,
        block_channels=(96, 128),
        attention_levels=(True, True),
        layers_per_block=1,
        heads=4,
        norm_groups=16,
        feed_forward_factor=2,
        context_width=None,
        context_gain=1.0,
        audio=AudioAttentionConfig(width=128, shared=True, self_attention=False) if denoiser else None,
        motion=MotionModuleConfig(heads=4, attention_blocks=1, max_frames=32, speed_width=64, without_reference=True)
        if denoiser
        else None,
    )


TINY = TinyConfig(
    emo=EmoConfig(
        name="tiny",
        backbone=_tiny_backbone(denoiser=True, in_channels=128),
        reference=_tiny_backbone(denoiser=False, in_channels=128),
        locator=FaceLocatorConfig(in_channels=4, block_channels=(16, 24, 32, 48, 64), out_channels=96),
        audio_projection=AudioProjectionConfig(frames=5, blocks=2, width=384, hidden=384, tokens=8, token_width=128),
        face_projection=None,
        speed=SpeedConfig(
            centres=(0.0, 2.0, 5.0, 10.0, 18.0), radii=(1.0, 1.5, 2.5, 4.0, 8.0), context=2, hidden=64, width=64
        ),
        schedule=ScheduleConfig(1000, 0.00085, 0.012, "scaled_linear", zero_terminal_snr=True, fixed_stride=False),
        motion_frames=2,
        audio_look_ahead=2,
    ),
    whisper=WhisperConfig(mels=80, width=384, heads=6, layers=3, tokens=80),
    autoencoder=AutoencoderConfig(
        flow_size=128,
        patch=8,
        latent_channels=16,
        reference_channels=48,
        flow_width=48,
        flow_blocks=3,
        mouth_size=144,
        mouth_width=48,
        mouth_blocks=3,
    ),
    components=384,
    gestures=GesturesConfig(
        memories=(0, 0, 0, 0, 1, 1, 2, 2, 4, 4, 8, 8, 12, 16, 24, 24),
        taps=97,
        inertia=1.6,
        inertia_taps=13,
        width=64,
        kernel=3,
        dilations=(1, 2, 4, 8, 16),
    ),
    patch=2,
    portrait_size=256,
    portrait_channels=64,
    mask_size=128,
)
