"""Text to speech: the protocol that any voice fits into, and the default one, hibari, which runs offline on the CPU.

A voice is an object with one method. Nothing here knows of sessions; synthesis runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Protocol

import numpy as np

from emo_live.errors import BadInputError, EngineError, NotSupportedError
from emo_live.types import AudioChunk

MAX_TEXT = 10_000  # characters in one go: ten minutes of speech
_SYNTHESIS_TIMEOUT_S = 30.0  # for one sentence; hibari takes some ten milliseconds


class Speaker(Protocol):
    """Makes speech of text. Chunks should come sentence by sentence: the avatar starts with the first one."""

    def speak(self, text: str, voice: str | None) -> AsyncIterator[AudioChunk]:
        """voice: one of the speaker's own names, None for its usual one. Raises BadInputError for an unknown one."""


class HibariSpeaker:
    """hibari-tts: English, 24 kHz, a hundred times faster than real time. Voices load when they are first used."""

    def __init__(self) -> None:
        self._voices: dict[str, Any] = {}
        self._lock = threading.Lock()  # hibari's nets are shared by all sessions that use this speaker

    def voices(self) -> list[str]:
        """Names that work without a download, the usual one first."""
        names = _hibari_voices()
        return [name for name in names.VOICES if _is_here(names, name)]

    async def speak(self, text: str, voice: str | None) -> AsyncIterator[AudioChunk]:
        sentences = self._sentences(checked(text), voice)
        while True:
            try:
                async with asyncio.timeout(_SYNTHESIS_TIMEOUT_S):
                    chunk = await asyncio.to_thread(next, sentences, None)
            except TimeoutError:
                raise EngineError(f"the voice took longer than {_SYNTHESIS_TIMEOUT_S:.0f} s for a sentence") from None
            if chunk is None:
                return
            yield chunk

    def _sentences(self, text: str, voice: str | None) -> Iterator[AudioChunk]:
        with self._lock:
            tts = self._load(voice)
            parts = iter(tts.stream(text))
        while True:
            with self._lock:
                pcm = next(parts, None)
            if pcm is None:
                return
            yield AudioChunk(np.asarray(pcm, np.float32), _hibari().SAMPLE_RATE)

    def _load(self, voice: str | None) -> Any:
        names = _hibari_voices()
        name = voice or names.DEFAULT
        if name not in self._voices:
            if name not in names.VOICES or not _is_here(names, name):
                raise BadInputError(f"there is no voice {name!r} on this machine: use {', '.join(self.voices())}")
            self._voices[name] = _hibari().Hibari(voice=name)
        return self._voices[name]


def checked(text: str) -> str:
    """The text, if it can be spoken; else BadInputError."""
    if not text.strip():
        raise BadInputError("there is no text to speak")
    if len(text) > MAX_TEXT:
        raise BadInputError(f"the text has {len(text)} characters: speak at most {MAX_TEXT} in one go")
    return text


async def closable(chunks: AsyncIterator[AudioChunk]) -> AsyncGenerator[AudioChunk, None]:
    """Any iterator as one that can be closed: what a speaker holds is freed when an interrupt stops it."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _hibari() -> Any:
    try:
        import hibari
    except ModuleNotFoundError:
        raise NotSupportedError('speaking text needs a voice: pip install "emo-live[server]"') from None
    return hibari


def _hibari_voices() -> Any:
    _hibari()
    from hibari import voices

    return voices


def _is_here(names: Any, name: str) -> bool:
    try:
        names.voice_path(name, download_missing=False)
    except FileNotFoundError:
        return False
    return True
