"""Mouth shapes from sound features: what the motion prior hears. An audio projection of its own, trained on shapes."""

from __future__ import annotations

from torch import Tensor, nn

from emo_live.config import AudioProjectionConfig
from emo_live.models.audio import AudioProjection
from emo_live.models.emo import frame_windows

HEARD = slice(23, 52)  # jaw, mouth and nose among the ARKit names, which are in alphabetical order
UNHEARD = slice(0, 23)  # brows, cheeks, lids and eyes


class Hearing(nn.Module):
    """(B, (T + 2m) blocks, D) sound features of T frames and m neighbours on each side -> (B, T, S) weights HEARD."""

    def __init__(self, config: AudioProjectionConfig, shapes: int = 52):
        super().__init__()
        self.audioproj = AudioProjection(config)
        self.shape_head = nn.Linear(config.tokens * config.token_width, shapes)

    def forward(self, features: Tensor) -> Tensor:
        config = self.audioproj.config
        tokens = self.audioproj(frame_windows(features, config.blocks, config.frames // 2))
        out: Tensor = self.shape_head(tokens.flatten(2))[..., HEARD]
        return out
