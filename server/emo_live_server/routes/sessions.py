"""Live sessions: begun, spoken through, steered, ended. The URL of a session is the secret that opens it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from emo_live.errors import BadInputError
from emo_live_server.auth import Principal
from emo_live_server.context import Context
from emo_live_server.depends import Caller, Opened, Shared, limited, may
from emo_live_server.live import Live
from emo_live_server.problems import Problem
from emo_live_server.sessions import Wish
from emo_live_server.sound import SoundFile
from emo_live_server.uploads import receive_audio

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

Speed = Annotated[float | None, Field(ge=0, le=30, description="head motion in degrees a second")]
Motion = Annotated[float | None, Field(ge=0, le=2, description="strength of head motion, 1 as generated")]


class NewSession(BaseModel):
    model_config = ConfigDict(extra="forbid")
    avatar: str = "default"
    size: int | None = None
    speed: Speed = None
    motion: Motion = None
    greet: bool | None = None


class Speech(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1)
    voice: str | None = None


class Steering(BaseModel):
    model_config = ConfigDict(extra="forbid")
    speed: Speed = None
    motion: Motion = None

    @model_validator(mode="after")
    def _something(self) -> Steering:
        if self.speed is None and self.motion is None:
            raise ValueError("give speed, motion or both")
        return self


@router.post("", status_code=201)
async def create(
    shared: Shared,
    caller: Annotated[Principal, Depends(may("session:create", kind="create"))],
    wish: NewSession | None = None,
) -> dict[str, Any]:
    live = await begin(shared, caller, wish or NewSession())
    return described(shared, live)


async def begin(shared: Context, caller: Principal, wish: NewSession, *, viewer: bool = False) -> Live:
    """A warm session. Raises Problem: 404 no such avatar, 409 warming up, 422 no such size, 503 full."""
    if wish.size is not None:
        try:
            shared.settings.limits.check_size(wish.size)
        except BadInputError as error:
            raise Problem(422, str(error), reason="bad_input") from None
    name = shared.avatars.check(wish.avatar)
    await shared.sessions.admit()
    shared.check_ready()
    avatar = await shared.avatars.get(name)
    live = await shared.sessions.begin(
        avatar, name, Wish(wish.size, wish.speed, wish.motion), owner=caller.name, viewer=viewer
    )
    if wish.greet:
        live.greet(shared.settings.greeting)
    return live


def described(shared: Context, live: Live) -> dict[str, Any]:
    base = f"/v1/sessions/{live.id}"
    return {
        "id": live.id,
        "avatar": live.avatar,
        "size": live.size,
        "webrtc_url": f"{base}/webrtc",
        "realtime_url": f"{base}/realtime",
        "expires_s": shared.settings.session_idle_s,
        "ai_generated": True,
    }


@router.get("/{id}")
async def show(live: Opened, shared: Shared) -> dict[str, Any]:
    return {**described(shared, live), "state": live.session.state}


@router.post("/{id}/say", status_code=202, dependencies=[Depends(limited("speech"))])
async def say(speech: Speech, live: Opened, shared: Shared) -> dict[str, Any]:
    if len(speech.text) > shared.settings.max_text_chars:
        raise Problem(422, f"text: at most {shared.settings.max_text_chars} characters", reason="bad_input")
    return {"utterance": await live.say(speech.text, speech.voice), "ai_generated": True}


@router.post("/{id}/audio", status_code=202, dependencies=[Depends(limited("speech"))])
async def audio(request: Request, live: Opened, shared: Shared) -> dict[str, Any]:
    """A form with a sound file in the field `audio`, or the file itself: anything that PyAV reads."""
    settings = shared.settings
    path = await receive_audio(request, settings.max_audio_bytes)
    file = await SoundFile.open(path, shared.sound_worker, settings.max_audio_s)
    try:
        return {"utterance": await live.speak(file.chunks()), "ai_generated": True}
    except BaseException:
        await file.close()
        raise


@router.post("/{id}/interrupt", dependencies=[Depends(limited("control"))])
async def interrupt(live: Opened) -> dict[str, Any]:
    heard = await live.interrupt()
    return {"utterance": heard.utterance, "heard_ms": heard.ms}


@router.post("/{id}/pause", dependencies=[Depends(limited("control"))])
async def pause(live: Opened) -> dict[str, Any]:
    await live.session.pause()
    return {"state": live.session.state}


@router.post("/{id}/resume", dependencies=[Depends(limited("control"))])
async def resume(live: Opened) -> dict[str, Any]:
    await live.session.resume()
    return {"state": live.session.state}


@router.post("/{id}/control", dependencies=[Depends(limited("control"))])
async def control(steering: Steering, live: Opened) -> dict[str, Any]:
    live.session.control(speed=steering.speed, motion=steering.motion)
    return steering.model_dump(exclude_none=True)


@router.get("/{id}/stats", dependencies=[Depends(limited("control"))])
async def stats(live: Opened) -> dict[str, Any]:
    return live.stats()


@router.delete("/{id}", dependencies=[Depends(limited("control"))])
async def delete(id: str, shared: Shared, caller: Caller) -> dict[str, Any]:
    """Also 200 when it has ended already: whoever says goodbye twice means it."""
    if not shared.sessions.knows(id):
        raise Problem(404, "there is no such session", reason="no_session")
    await shared.sessions.end(id, "deleted")
    return {"ended": True}
