"""What the routes of one app share, and how it comes up and goes down.

The page is served at once; the engine, the first face and WebRTC warm up behind it, and `ready` says when that is done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from emo_live.errors import EmoLiveError, EngineError
from emo_live_server import logs
from emo_live_server.auth import Authenticator
from emo_live_server.avatars import Avatars
from emo_live_server.limits import RateLimits
from emo_live_server.live import Peer
from emo_live_server.metrics import Metrics
from emo_live_server.problems import Problem
from emo_live_server.sessions import Sessions
from emo_live_server.settings import Settings
from emo_live_server.tasks import Tasks

_log = logs.get(__name__)


class Rtc(Protocol):
    """What is used of emo_live.transport.webrtc.RtcHost."""

    async def answer(self, offer_sdp: str, *, size: tuple[int, int], receive_audio: bool = False) -> Peer: ...


WarmUp = Callable[["Context", contextlib.AsyncExitStack], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Context:
    """failure: set when warming up failed, with what went wrong. voices: names that `say` takes."""

    settings: Settings
    auth: Authenticator
    limits: RateLimits
    metrics: Metrics
    avatars: Avatars
    sessions: Sessions
    version: str
    rtc: Rtc | None = None
    voices: tuple[str, ...] = ()
    ready: bool = False
    failure: asyncio.Future[EmoLiveError] | None = None
    sound_worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "emo-sound"))

    @contextlib.asynccontextmanager
    async def running(self, warm_up: WarmUp) -> Any:
        """From start to stop of the app; resources that warm_up enters are closed last."""
        self.failure = asyncio.get_running_loop().create_future()
        tasks = Tasks()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.sound_worker.shutdown, wait=False, cancel_futures=True)
            stack.callback(self.avatars.close)
            resources = await stack.enter_async_context(contextlib.AsyncExitStack())
            await stack.enter_async_context(self.sessions)
            stack.push_async_callback(tasks.close)
            tasks.start(self._warm_up(warm_up, resources), "warm-up")
            yield

    async def _warm_up(self, warm_up: WarmUp, resources: contextlib.AsyncExitStack) -> None:
        assert self.failure is not None, "made before"
        try:
            await self.avatars.get(self.avatars.default)  # first: a picture that cannot be used is said at once
            await warm_up(self, resources)
        except EmoLiveError as error:
            self.failure.set_result(error)
            _log.error("the server cannot get ready", error=type(error).__name__)
        except Exception as error:
            self.failure.set_result(EngineError(f"{type(error).__name__} while warming up: the log says more"))
            raise
        else:
            self.ready = True
            _log.info("ready", engine=self.settings.engine)

    def check_ready(self) -> None:
        """Raises Problem 409 with Retry-After while warming up, 503 if that failed."""
        if self.failure is not None and self.failure.done():
            raise Problem(503, "this server could not start its engine: its log says why", reason="failed")
        if not self.ready:
            raise Problem.retry(409, "the avatar is warming up", reason="warming_up", after_s=2)
