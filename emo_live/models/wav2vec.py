"""Sound features of the published sizes, as the engine asks for them, and Hallo's: wav2vec2 at the pictures' rate.

The convolutions' features are brought to 25 frames a second before the transformer, so that every layer has one state a
frame; the states of all layers are the features (Hallo, arXiv 2406.08801; wav2vec2, 2006.11477). Whole recordings and
live sound go through the same networks: live, a bounded context stands for the recording. Its length, and how far the
features are then from those of the whole recording, was measured (docs/parity.md). EchoMimic's are in whisper_sound.py;
what the published pipelines do around whole files is in checkpoints/hallo_sound.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import EmoConfig
from emo_live.errors import BadInputError, NotSupportedError
from emo_live.models.libraries import silent
from emo_live.types import MODEL_RATE_HZ, MODEL_STEP_SAMPLES, Float32

CONTEXT_S = 5.0  # what live features are made from: longer brings them no closer to the whole recording's


class SoundFeatures(Protocol):
    """Features of live sound, from a bounded context of it. Without memory: going back needs no undoing."""

    context_samples: int  # how much sound, at 16 kHz, is of use

    def __call__(self, pcm: Float32, frames: int) -> Tensor:
        """pcm: (S,) float32 in [-1, 1], 16 kHz, the sound up to the end of the newest frame, S <= context_samples ->
        (frames * blocks, D) features of the newest frames of 40 ms, oldest first.

        Nothing after pcm is seen. Where it holds fewer frames, its first state stands for those before it, as it does
        at the beginning of a recording in the published pipelines.
        """
        ...


def streaming_features(folder: Path, config: EmoConfig, device: torch.device, dtype: torch.dtype) -> SoundFeatures:
    """What hears for a model of `config`. folder: ModelFolder.sound. Raises BadInputError where they do not fit."""
    projection = config.audio_projection
    if config.backbone.audio is None:  # attn2 hears: EchoMimic
        from emo_live.models.whisper_sound import WhisperFeatures, WhisperSound

        return WhisperFeatures(WhisperSound.load(folder, projection, device, dtype))
    wav2vec = Wav2Vec.load(folder, device, dtype)
    if (wav2vec.layers, wav2vec.width) != (projection.blocks, projection.width):
        raise BadInputError(
            f"{folder} has {wav2vec.layers} layers of width {wav2vec.width}, but the model reads {projection.blocks} "
            f"of width {projection.width}: install the wav2vec2 that belongs to it (emo-live weights list)"
        )
    return Wav2VecFeatures(wav2vec)


def newest(states: Tensor, frames: int) -> Tensor:
    """(N, ...) states of N frames, oldest first -> of the newest `frames`, the first repeated where N is smaller."""
    missing = max(frames - len(states), 0)
    return torch.cat([states[:1].expand(missing, *states.shape[1:]), states[-frames:]])


def whole_frames(pcm: Float32, device: torch.device) -> Tensor:
    """(S,) -> (640 N,), N >= 1: cut at the old end, so that the newest frame ends where the sound ends."""
    samples = torch.tensor(pcm, dtype=torch.float32, device=device)  # a copy: what is given may be read-only
    if len(samples) < MODEL_STEP_SAMPLES:
        return F.pad(samples, (MODEL_STEP_SAMPLES - len(samples), 0))
    return samples[len(samples) % MODEL_STEP_SAMPLES :]


def without_lead(pcm: Float32, frames: int) -> Float32:
    """(S,) -> the same without the digital silence that it begins with, but for the newest `frames`.

    Before speech, a session has silence where a recording has nothing; it would count in the norms over time. Left out,
    features of the first seconds of speech are two to three times nearer to the recording's.
    """
    heard = np.flatnonzero(pcm)
    begin = (heard[0] if len(heard) else len(pcm)) // MODEL_STEP_SAMPLES * MODEL_STEP_SAMPLES
    return pcm[min(begin, max(len(pcm) - frames * MODEL_STEP_SAMPLES, 0)) :]


def normalised(samples: Tensor) -> Tensor:
    """(S,) float32 -> zero mean, unit variance over all of it; silence stays silence."""
    return (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()


class Wav2Vec:
    """wav2vec2's networks. `model`: transformers' Wav2Vec2Model."""

    def __init__(self, model: Any):
        self.model = model.eval().requires_grad_(False)
        self.layers: int = model.config.num_hidden_layers
        self.width: int = model.config.hidden_size

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> Wav2Vec:
        """folder: config.json and model.safetensors of a wav2vec2, with or without its recognition head."""
        try:
            from safetensors import SafetensorError
            from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model
        except ModuleNotFoundError as error:
            raise NotSupportedError('sound features need transformers: pip install "emo-live[gpu]"') from error

        try:
            with silent("transformers"):
                model, report = Wav2Vec2Model.from_pretrained(
                    folder, local_files_only=True, output_loading_info=True, dtype=dtype
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise BadInputError(f"cannot read wav2vec2 from {folder}: {str(error).splitlines()[0]}") from error
        if missing := sorted(set(report["missing_keys"]) - {"masked_spec_embed"}):  # that one is for training
            raise BadInputError(f"{folder} is not a complete wav2vec2: {len(missing)} tensors missing, as {missing[0]}")
        return cls(model.to(device))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @torch.no_grad()
    def convolved(self, samples: Tensor) -> Tensor:
        """(S,) normalised samples, S >= 400 -> (C, N) features every 20 ms."""
        features: Tensor = self.model.feature_extractor(samples.to(self.model.dtype)[None])
        return features[0]

    @torch.no_grad()
    def states(self, samples: Tensor, frames: int) -> Tensor:
        """(S,) normalised samples -> (frames, layers, D): what every layer hands on. Its input is not among them."""
        rate = F.interpolate(self.convolved(samples)[None], size=frames, mode="linear", align_corners=True)
        hidden = self.model.feature_projection(rate.transpose(1, 2))[0]
        states: list[Tensor] = []

        def keep(layer: object, given: object, out: Any) -> None:
            states.append(out if isinstance(out, Tensor) else out[0])

        # transformers 5 returns no hidden states from the encoder alone
        hooks = [layer.register_forward_hook(keep) for layer in self.model.encoder.layers]
        try:
            self.model.encoder(hidden)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(states, 2)[0]


class Wav2VecFeatures:
    """Hallo's sound, live: what came last stands for the recording. 25 N frames of it lie on the frames' own grid."""

    def __init__(self, wav2vec: Wav2Vec, context_s: float = CONTEXT_S):
        self.wav2vec = wav2vec
        self.context_samples = round(context_s * MODEL_RATE_HZ)

    def __call__(self, pcm: Float32, frames: int) -> Tensor:
        assert len(pcm) <= self.context_samples, "more sound than the context holds: hand over its newest part"
        samples = normalised(whole_frames(without_lead(pcm, frames), self.wav2vec.device))
        states = self.wav2vec.states(samples, len(samples) // MODEL_STEP_SAMPLES)
        return newest(states, frames).flatten(0, 1)
