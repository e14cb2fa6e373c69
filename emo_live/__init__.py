"""Real-time talking avatars: one portrait and speech in, a person who talks out. See README.md."""

from __future__ import annotations

from emo_live.avatar import Avatar
from emo_live.errors import BadInputError, EmoLiveError, EngineError, NotReadyError, NotSupportedError
from emo_live.render import RenderOptions, RenderResult, render
from emo_live.types import AVPair, Progress

__all__ = [
    "AVPair",
    "Avatar",
    "BadInputError",
    "EmoLiveError",
    "EngineError",
    "NotReadyError",
    "NotSupportedError",
    "Progress",
    "RenderOptions",
    "RenderResult",
    "render",
]
