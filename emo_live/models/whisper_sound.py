"""EchoMimic's sound features: the states of whisper's encoder, 50 a second, of a recording or of live sound.

Embedding and block outputs are taken before the final norm (arXiv 2407.08136; whisper, 2212.04356). The encoder always
works on 30 s, filled up with zeros behind the log-mel picture: a live context is to it what a short recording was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emo_live.config import AudioProjectionConfig, WhisperConfig
from emo_live.config_dict import rebuilt
from emo_live.errors import BadInputError, NotSupportedError
from emo_live.models.audio import WhisperEncoder
from emo_live.models.wav2vec import newest, whole_frames
from emo_live.types import MODEL_RATE_HZ, Float32

CONTEXT_S = 5.0
STATES_PER_FRAME = 2  # 50 a second
_SHORTEST = 400  # samples; one analysis window


class WhisperSound:
    """The encoder and the log-mel picture in front of it."""

    def __init__(self, encoder: WhisperEncoder):
        try:
            from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor
        except ModuleNotFoundError as error:
            raise NotSupportedError('sound features need transformers: pip install "emo-live[gpu]"') from error

        self.encoder = encoder.eval().requires_grad_(False)
        self._mel: Any = WhisperFeatureExtractor(feature_size=encoder.conv1.in_channels)

    @classmethod
    def load(
        cls, folder: Path, projection: AudioProjectionConfig, device: torch.device, dtype: torch.dtype
    ) -> WhisperSound:
        """folder: encoder.safetensors (whisper's `encoder.` keys) and config.json (a WhisperConfig)."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = rebuilt(WhisperConfig, json.loads((folder / "config.json").read_text()), "config")
            state = load_file(folder / "encoder.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise BadInputError(f"cannot read whisper's encoder from {folder}: {error}") from error
        if (STATES_PER_FRAME * (config.layers + 1), config.width) != (projection.blocks, projection.width):
            raise BadInputError(
                f"{folder} has {config.layers} layers of width {config.width}, but the model reads "
                f"{projection.blocks // STATES_PER_FRAME - 1} of width {projection.width}: install the whisper that "
                "belongs to it (emo-live weights list)"
            )
        encoder = WhisperEncoder(config)
        try:
            encoder.load_published(state)
        except RuntimeError as error:
            raise BadInputError(f"{folder} does not hold the encoder that its config.json describes") from error
        return cls(encoder.to(device, dtype))

    @property
    def device(self) -> torch.device:
        return self.encoder.positional_embedding.device

    def log_mel(self, samples: Tensor) -> Tensor:
        """(S,) float32 at 16 kHz -> (mels, S / 160), at most 8 decades below the loudest place of all of it."""
        if len(samples) < _SHORTEST:
            samples = F.pad(samples, (0, _SHORTEST - len(samples)))
        found = self._mel(
            samples.cpu().numpy(),
            sampling_rate=MODEL_RATE_HZ,
            padding="do_not_pad",
            truncation=False,
            return_tensors="pt",
            device=self.device.type,
        )
        mel: Tensor = found["input_features"][0]
        return mel.to(self.device)

    @torch.no_grad()
    def states(self, samples: Tensor) -> Tensor:
        """(S,) -> (S / 320, layers + 1, D), 30 s at a time."""
        table = self.encoder.positional_embedding
        parts = []
        for mel in self.log_mel(samples).split(2 * len(table), 1):
            picture = F.pad(mel, (0, 2 * len(table) - mel.shape[1])).to(table.dtype)
            parts.append(torch.stack(self.encoder.states(picture[None]), 2)[0, : mel.shape[1] // 2])
        return torch.cat(parts)


class WhisperFeatures:
    """EchoMimic's sound, live (see SoundFeatures): what came last stands for the recording."""

    def __init__(self, whisper: WhisperSound, context_s: float = CONTEXT_S):
        self.whisper = whisper
        self.context_samples = round(context_s * MODEL_RATE_HZ)

    def __call__(self, pcm: Float32, frames: int) -> Tensor:
        assert len(pcm) <= self.context_samples, "more sound than the context holds: hand over its newest part"
        states = self.whisper.states(whole_frames(pcm, self.whisper.device))
        return newest(states, STATES_PER_FRAME * frames).flatten(0, 1)
