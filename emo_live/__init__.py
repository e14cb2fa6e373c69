"""Real-time talking avatars: one portrait and speech in, a person who talks out. See README.md."""

from __future__ import annotations

from emo_live.audio.tts import Speaker
from emo_live.avatar import Avatar
from emo_live.engine.pool import EnginePool
from emo_live.engine.window import Controls
from emo_live.errors import BadInputError, EmoLiveError, EngineError, NotReadyError, NotSupportedError
from emo_live.events import (
    Degraded,
    Heard,
    Recovered,
    SessionClosed,
    SessionStats,
    StateChanged,
    StatsReport,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.media.sink import MemorySink, Sink
from emo_live.render import RenderOptions, RenderResult, render
from emo_live.session import AvatarSession
from emo_live.types import AudioChunk, AVPair, Progress

__all__ = [
    "AVPair",
    "AudioChunk",
    "Avatar",
    "AvatarSession",
    "BadInputError",
    "Controls",
    "Degraded",
    "EmoLiveError",
    "EngineError",
    "EnginePool",
    "Heard",
    "MemorySink",
    "NotReadyError",
    "NotSupportedError",
    "Progress",
    "Recovered",
    "RenderOptions",
    "RenderResult",
    "SessionClosed",
    "SessionStats",
    "Sink",
    "Speaker",
    "StateChanged",
    "StatsReport",
    "UtteranceFinished",
    "UtteranceStarted",
    "render",
]
