"""Speech on its way into a session: sound that is pushed, texts that a voice speaks, and the room that both wait for.

Whoever pushes has one utterance open at a time; each text is one of its own. What they say next, and when, is the
conversation's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

from emo_live.audio.framer import check_rate
from emo_live.audio.tts import HibariSpeaker, Speaker, checked, closable
from emo_live.audio.utterance import Utterance, as_mono
from emo_live.conversation import Conversation
from emo_live.errors import EmoLiveError, EngineError
from emo_live.types import Float32

log = logging.getLogger(__name__)
_FIRST_SOUND_TIMEOUT_S = 30.0
_PIECES_S = 1  # long sound is taken in pieces of this length

Task = asyncio.Task[None]


@functools.cache
def _default_speaker() -> HibariSpeaker:
    """Shared by all sessions: its voice loads once."""
    return HibariSpeaker()


class SpeechIn:
    """opened: the conversation of the open session; raises NotReadyError. own: keeps a task until it is done, and
    cancels it at the session's end. speaker: for texts (None: hibari)."""

    def __init__(self, opened: Callable[[], Conversation], own: Callable[[Task], Task], speaker: Speaker | None):
        self._opened, self._own, self._speaker = opened, own, speaker
        self._pushed: Utterance | None = None  # the one that `push` adds to
        self._pushing = asyncio.Lock()  # sound keeps the order in which it was pushed
        self._speaking: set[Task] = set()
        self._room = asyncio.Event()
        self._over = False

    async def push(self, pcm: Any, rate_hz: int) -> None:
        """See AvatarSession.push_audio."""
        sound = as_mono(pcm)
        check_rate(rate_hz)
        self._opened()
        async with self._pushing:
            talk = self._opened()
            if self._pushed is None and len(sound):
                self._pushed = talk.queue.begin()
            if self._pushed is not None:
                await self._put(self._pushed, sound, rate_hz)

    async def end(self) -> str | None:
        """See AvatarSession.end_utterance."""
        self._opened()
        async with self._pushing:
            return self._end_pushed()

    def _end_pushed(self) -> str | None:
        talk, utterance, self._pushed = self._opened(), self._pushed, None
        if utterance is None or utterance.cancelled:
            return None
        utterance.end()
        talk.finish_spoken()
        talk.feed()
        return utterance.name

    async def say(self, text: str, voice: str | None) -> str:
        """See AvatarSession.say."""
        checked(text)
        talk = self._opened()
        speaker = self._speaker or _default_speaker()
        self._end_pushed()
        utterance = talk.queue.begin()
        first_sound: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._own(asyncio.create_task(self._speak(speaker, text, voice, utterance, first_sound)))
        self._speaking.add(task)
        task.add_done_callback(self._speaking.discard)
        task.add_done_callback(lambda _: self._spoken(utterance, first_sound))
        try:
            async with asyncio.timeout(_FIRST_SOUND_TIMEOUT_S):
                await first_sound
        except BaseException as error:
            task.cancel()
            self._spoken(utterance, first_sound)
            if isinstance(error, TimeoutError):
                raise EngineError(f"the voice made no sound within {_FIRST_SOUND_TIMEOUT_S:.0f} s") from None
            raise
        return utterance.name

    async def _speak(
        self, speaker: Speaker, text: str, voice: str | None, utterance: Utterance, first_sound: asyncio.Future[None]
    ) -> None:
        try:
            async with contextlib.aclosing(closable(speaker.speak(text, voice))) as chunks:
                async for chunk in chunks:
                    sound = as_mono(chunk.pcm)
                    check_rate(chunk.rate_hz)
                    # Now, not when all of it has a place: a sentence may be longer than what may wait.
                    if len(sound) and not first_sound.done():
                        first_sound.set_result(None)
                    if not await self._put(utterance, sound, chunk.rate_hz):
                        break
        except Exception as error:
            if first_sound.done():
                log.warning("a voice failed in the middle of a text", exc_info=error)
            else:
                wrapped = error if isinstance(error, EmoLiveError) else EngineError(f"the voice failed: {error}")
                first_sound.set_exception(wrapped)

    def _spoken(self, utterance: Utterance, first_sound: asyncio.Future[None]) -> None:
        """A voice is done, or was stopped, perhaps before it began."""
        if not first_sound.done():
            first_sound.set_result(None)
        utterance.end()
        if not self._over:
            talk = self._opened()
            talk.finish_spoken()
            talk.feed()

    async def _put(self, utterance: Utterance, sound: Float32, rate_hz: int) -> bool:
        """False if the utterance was interrupted, or the session closed, before all of it had a place."""
        step = max(1, int(rate_hz * _PIECES_S))
        for start in range(0, len(sound), step):
            while not utterance.has_room and not utterance.cancelled and not self._over:
                self._room.clear()
                # No timeout: a paused session may wait for long. Pairs, an interrupt and the end wake it.
                await self._room.wait()
            if utterance.cancelled or self._over:
                return False
            talk = self._opened()
            utterance.push(sound[start : start + step], rate_hz, asyncio.get_running_loop().time())
            talk.feed()
        return True

    def dropped(self) -> None:
        """The conversation is being interrupted: voices stop, and what was pushed is over."""
        for task in self._speaking:
            task.cancel()
        self._pushed = None

    def wake(self) -> None:
        """There may be room."""
        self._room.set()

    def close(self) -> None:
        """The session is over. May be called twice."""
        self._over = True
        self._room.set()
