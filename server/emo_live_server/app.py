"""The ASGI application: settings in, everything else put together here. Nothing happens before it is started."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware

from emo_live import AvatarSession
from emo_live.audio.tts import HibariSpeaker
from emo_live.avatar import Avatar
from emo_live.engine.live import EngineFactory
from emo_live.engine.named import factory_of
from emo_live.engine.pool import EnginePool
from emo_live.engine.window import Controls
from emo_live.errors import EmoLiveError, NotSupportedError
from emo_live.hardware import return_freed_memory
from emo_live_server import logs, problems
from emo_live_server.auth import Authenticator
from emo_live_server.avatars import Avatars
from emo_live_server.context import Context, Rtc
from emo_live_server.guard import Guard
from emo_live_server.limits import RateLimits
from emo_live_server.live import Session
from emo_live_server.metrics import Metrics
from emo_live_server.routes import avatars, health, realtime, sessions, webrtc
from emo_live_server.sessions import OpenSession, Sessions, Wish
from emo_live_server.settings import Settings, load
from emo_live_server.voices import Voices

_log = logs.get(__name__)
WEB = Path(__file__).parent / "web"


def create_app(
    settings: Settings | None = None,
    *,
    pool: Any = None,
    rtc: Rtc | None = None,
    open_session: OpenSession | None = None,
) -> FastAPI:
    """settings: None reads the environment. The rest replaces parts that would be made at start-up.

    pool: an entered EnginePool, which stays the caller's. rtc: as RtcHost. open_session: instead of AvatarSession.
    Raises BadInputError for settings that cannot be used.
    """
    settings = settings or load()
    factory: EngineFactory | None = None
    if open_session is None and pool is None:
        factory = factory_of(settings.chosen_engine, settings.size)  # a wrong name, missing weights are noticed now
    context = _context(settings, open_session)
    context.rtc = rtc

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with context.running(lambda shared, stack: _warm_up(shared, stack, factory, pool, open_session)):
            yield

    app = FastAPI(
        title="emo_live", version=context.version, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
        lifespan=lifespan,
    )  # fmt: skip
    app.state.context = context
    problems.install(app)
    for router in (health.router, avatars.router, sessions.router, webrtc.router, realtime.router):
        app.include_router(router)
    if WEB.is_dir():
        app.mount("/", StaticFiles(directory=WEB, html=True), name="page")
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD"],
            allow_headers=["Authorization", "Content-Type", "If-Match"],
            expose_headers=webrtc.EXPOSED,
            max_age=600,
        )
    app.add_middleware(Guard, settings=settings, metrics=context.metrics)  # added last: around everything
    return app


def _context(settings: Settings, open_session: OpenSession | None) -> Context:
    metrics = Metrics()
    registry = Sessions(settings, metrics, open_session or _no_session)
    metrics.watch(registry.figures)
    return Context(
        settings=settings,
        auth=Authenticator(settings),
        limits=RateLimits(settings),
        metrics=metrics,
        avatars=Avatars(settings.portrait, settings.max_avatars, settings.max_upload_pixels),
        sessions=registry,
        version=_version(),
    )


async def _warm_up(
    context: Context,
    stack: contextlib.AsyncExitStack,
    factory: EngineFactory | None,
    pool: Any,
    open_session: OpenSession | None,
) -> None:
    """Everything that takes time, the engine first: its compiler needs the machine for itself."""
    settings = context.settings
    speaker = HibariSpeaker()
    with contextlib.suppress(NotSupportedError):  # no voice is installed: sound is spoken all the same
        context.voices = tuple(speaker.voices())
        context.sessions.speaker = speaker
    if open_session is None:
        if factory is not None:
            pool = await stack.enter_async_context(
                EnginePool(factory, threads=settings.threads, max_sessions=settings.max_sessions)
            )
        context.sessions.open_session = _opener(settings, pool)
    context.sessions.pool = pool
    if context.rtc is None:
        context.rtc = await stack.enter_async_context(_rtc_host(settings))
    if open_session is None and context.voices:
        await _warm_voice(speaker)
    return_freed_memory()  # loading the voice and finding a face leave some MB behind


async def _warm_voice(speaker: HibariSpeaker) -> None:
    """The first text loads the voice, which takes a second."""
    try:
        async for _ in speaker.speak("Hello.", None):
            pass
    except EmoLiveError as error:  # a face without a voice is still a face
        _log.warning("the voice does not work", error=type(error).__name__)


def _opener(settings: Settings, pool: Any) -> OpenSession:
    def open_session(avatar: Avatar, wish: Wish, voices: Voices) -> Session:
        usual = Controls()
        return AvatarSession(
            avatar,
            size=wish.size or settings.size,
            seed=settings.seed,
            steps=settings.steps,
            speaker=voices,
            controls=Controls(
                usual.speed if wish.speed is None else wish.speed,
                usual.motion if wish.motion is None else wish.motion,
            ),
            pool=pool,
        )

    return open_session


def _no_session(avatar: Avatar, wish: Wish, voices: Voices) -> Session:
    raise AssertionError("sessions are begun when the engine is ready")


def _rtc_host(settings: Settings) -> Any:
    from emo_live.transport.webrtc import IceServer, RtcHost, RtcSettings

    servers = tuple(
        IceServer(
            urls=server.urls,
            username=server.username,
            credential=server.credential.get_secret_value() if server.credential else None,
        )
        for server in settings.ice_servers
    )
    return RtcHost(
        RtcSettings(
            ice_servers=servers,
            relay_only=settings.relay_only,
            port_range=settings.udp_ports,
            max_bitrate_bps=settings.max_bitrate_bps,
            prefer=settings.prefer_codec,
        )
    )


def _version() -> str:
    try:
        return metadata.version("emo-live")
    except metadata.PackageNotFoundError:
        return "unknown"
