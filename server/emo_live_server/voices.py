"""What a session speaks with: a voice for texts, and sound that comes from elsewhere (sockets, microphones, files).

The library has one place where speech of its own length and pace enters a session: its Speaker. Sound from outside goes
in there as a voice that is used once, so that utterances never mix, wait for each other, and end with an interrupt.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from emo_live.audio.tts import Speaker
from emo_live.types import AudioChunk

_LIMIT_BYTES = 8_000_000  # of sound that waits in one stream: 160 s of 24 kHz, 16 bits
_SCALE = 32768.0


class SoundStream:
    """Sound on its way into an utterance; whoever has it pushes, the session takes. An async iterator of chunks.

    over: nothing more is taken, because it was interrupted or the session ended; what is pushed then is dropped.
    """

    def __init__(self) -> None:
        self.over = False
        self._waiting: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    async def push(self, pcm: Any, rate_hz: int) -> None:
        """pcm: (S,) float32 in [-1, 1] or int16, mono. Waits while the stream is full."""
        while self._bytes + pcm.nbytes > _LIMIT_BYTES and self._waiting and not self.over:
            self._changed.clear()
            # No timeout: a paused session may wait for long. An interrupt and the end of the session wake it.
            await self._changed.wait()
        if self.over or self._ended:
            return
        self._waiting.append((pcm, rate_hz))
        self._bytes += pcm.nbytes
        self._changed.set()

    def end(self) -> None:
        """What was pushed is all."""
        self._ended = True
        self._changed.set()

    def drop(self) -> None:
        """Forget what waits and take nothing more."""
        self.over = True
        self._waiting.clear()
        self._bytes = 0
        self._changed.set()

    def __aiter__(self) -> SoundStream:
        return self

    async def __anext__(self) -> AudioChunk:
        # No timeout: a speaker may pause. Its end, an interrupt and the end of the session wake it.
        while not self._waiting:
            if self._ended or self.over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        pcm, rate_hz = self._waiting.popleft()
        self._bytes -= pcm.nbytes
        self._changed.set()
        return AudioChunk(pcm if pcm.dtype.kind == "f" else (pcm / _SCALE).astype("float32"), rate_hz)

    async def aclose(self) -> None:
        """Whoever took the sound has stopped."""
        self.drop()


class Voices:
    """A Speaker for one session. voice: for texts; None if there is none."""

    def __init__(self, speaker: Speaker | None) -> None:
        self._speaker = speaker
        self._streams: dict[str, AsyncIterator[AudioChunk]] = {}

    def once(self, chunks: AsyncIterator[AudioChunk]) -> str:
        """The name of a voice that speaks this sound, once."""
        name = f"once:{secrets.token_hex(16)}"
        self._streams[name] = chunks
        return name

    def forget(self, name: str) -> None:
        self._streams.pop(name, None)

    def speak(self, text: str, voice: str | None) -> AsyncIterator[AudioChunk]:
        """See emo_live.audio.tts.Speaker."""
        chunks = self._streams.pop(voice, None) if voice is not None else None
        if chunks is not None:
            return chunks
        if self._speaker is None:
            from emo_live.errors import NotSupportedError

            raise NotSupportedError('speaking text needs a voice: pip install "emo-live[server]"')
        return self._speaker.speak(text, voice)
