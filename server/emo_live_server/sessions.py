"""All sessions of a server: who gets one, when one ends without being asked to, and how the server is emptied.

A session without anybody connected and without requests ends after a minute; with a viewer it goes on for ever, unless
the operator set a limit. What has ended is remembered, so that saying goodbye twice is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from emo_live.audio.tts import Speaker
from emo_live.avatar import Avatar
from emo_live.errors import EmoLiveError, NotReadyError
from emo_live_server import logs
from emo_live_server.live import Live, Session
from emo_live_server.metrics import Metrics
from emo_live_server.problems import RETRY_AFTER_S, Problem
from emo_live_server.settings import Settings
from emo_live_server.tasks import Tasks
from emo_live_server.voices import Voices

_LOOK_EVERY_S = 1.0
_REMEMBERED = 4096
_ALONE_S = 5.0  # after this a session that nobody uses gives way to one that somebody wants
_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new session is to be like; None: as the server is set."""

    size: int | None = None
    speed: float | None = None
    motion: float | None = None


class Pool(Protocol):
    """What is used of emo_live.engine.pool.EnginePool."""

    def free(self) -> int: ...


OpenSession = Callable[[Avatar, Wish, Voices], Session]


class Sessions:
    """open_session makes a library session, which is entered here. An async context manager."""

    def __init__(self, settings: Settings, metrics: Metrics, open_session: OpenSession) -> None:
        self.pool: Pool | None = None
        self.speaker: Speaker | None = None
        self.draining = False
        self._settings, self._metrics, self.open_session = settings, metrics, open_session
        self._live: dict[str, Live] = {}
        self._opening = 0
        self._ended: dict[str, None] = {}
        self._fewer = asyncio.Event()
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._live)

    async def __aenter__(self) -> Sessions:
        self._tasks.start(self._expire(), "expiry")
        return self

    async def __aexit__(self, *error: object) -> None:
        for id in list(self._live):
            await self.end(id, "shutdown")
        await self._tasks.close()

    def figures(self) -> list[dict[str, float | None]]:
        return [live.figures() for live in self._live.values()]

    # who gets one

    def _lack(self) -> str | None:
        """Why there is no place; None if there is one."""
        limit = self._settings.max_sessions
        if limit is not None and len(self._live) + self._opening >= limit:
            return f"all {limit} places are taken"
        if self.pool is not None and self.pool.free() <= 0:
            return "this machine animates as many faces as it can"
        return None

    async def admit(self) -> None:
        """Raises Problem 503 if a session asked for now would not be given.

        Sessions that only wait for somebody to come back give way: of a browser that crashed, say.
        """
        if self.draining:
            raise Problem.retry(503, "this server is about to stop", reason="draining", after_s=30)
        for live in sorted(self._live.values(), key=lambda live: live.used_s):
            if self._lack() is None:
                return
            if live.left_alone and time.monotonic() - live.used_s > _ALONE_S:
                await self.end(live.id, "gave_way")
        if (lack := self._lack()) is not None:
            raise self._full(lack)

    async def begin(self, avatar: Avatar, name: str, wish: Wish, *, owner: str, viewer: bool = False) -> Live:
        """A warm session that shows its first picture at once. Raises Problem 503 when full; EmoLiveError."""
        await self.admit()
        self._opening += 1
        try:
            voices = Voices(self.speaker)
            session = self.open_session(avatar, wish, voices)
            await session.__aenter__()
        except NotReadyError as error:
            raise self._full(str(error)) from None
        finally:
            self._opening -= 1
            self._fewer.set()
        if self.draining:
            await session.__aexit__(None, None, None)
            await self.admit()
        live = Live(
            session, voices, avatar=name, size=wish.size or self._settings.size, owner=owner, viewer=viewer,
            settings=self._settings, metrics=self._metrics, on_end=self._ends,
        )  # fmt: skip
        self._live[live.id] = live
        self._metrics.sessions_opened.inc()
        _log.info("session begins", session=live.fingerprint, viewer=viewer)
        return live

    def get(self, id: str) -> Live:
        """Raises Problem 404 for one that never was or has ended."""
        live = self._live.get(id)
        if live is None:
            detail = "this session has ended" if id in self._ended else "there is no such session"
            raise Problem(404, detail, reason="no_session")
        return live

    def find(self, id: str) -> Live | None:
        return self._live.get(id)

    def knows(self, id: str) -> bool:
        """Whether this session is here or was."""
        return id in self._live or id in self._ended

    def _full(self, detail: str) -> Problem:
        return Problem.retry(503, f"{detail}: try again later", reason="full", after_s=RETRY_AFTER_S)

    # how they end

    async def end(self, id: str, reason: str) -> None:
        """Nothing happens if it has ended."""
        live = self._live.pop(id, None)
        if live is None:
            return
        self._ended[id] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._fewer.set()
        self._metrics.closed(reason)
        _log.info("session ends", session=live.fingerprint, reason=reason, age_s=round(time.monotonic() - live.began_s))
        try:
            await live.close(reason)
        except EmoLiveError as error:  # an engine that failed says so once more
            _log.warning("a session did not close cleanly", session=live.fingerprint, error=type(error).__name__)

    def _ends(self, live: Live, reason: str) -> None:
        self._tasks.start(self.end(live.id, reason), "end of a session")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now_s = time.monotonic()
            for live in list(self._live.values()):
                if not live.left_alone:
                    live.touch()
                if now_s - live.used_s > self._settings.session_idle_s:
                    await self.end(live.id, "idle")
                elif self._settings.max_session_s is not None and now_s - live.began_s > self._settings.max_session_s:
                    await self.end(live.id, "too_long")

    async def _wait_until_empty(self) -> None:
        while self._live or self._opening:
            self._fewer.clear()
            await self._fewer.wait()

    async def drain(self) -> None:
        """No new sessions; those that run get the time that was set, then end. Returns when there are none."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await self._wait_until_empty()
        for id in list(self._live):
            with contextlib.suppress(Exception):  # one that cannot end must not keep the others
                await self.end(id, "drained")
