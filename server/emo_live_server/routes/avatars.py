"""What the page needs to know before it starts, and the faces to choose from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from emo_live_server.auth import Principal
from emo_live_server.depends import Caller, Shared, may
from emo_live_server.uploads import receive_portrait

router = APIRouter(prefix="/v1", tags=["avatars"])


@router.get("/config")
async def config(shared: Shared, caller: Caller) -> dict[str, Any]:
    """TURN credentials are for callers whom this server knows."""
    settings = shared.settings
    known = caller is not None
    return {
        "version": shared.version,
        "auth_required": shared.auth.protected,
        "ice_servers": ice_servers(shared) if known else [],
        "relay_only": settings.relay_only,
        "default_avatar": shared.avatars.default,
        "sizes": list(settings.sizes),
        "size": settings.size,
        "voices": list(shared.voices),
        "greet": settings.greet,
        "badge": settings.badge,
        "ai_generated": True,
        "max_upload_bytes": settings.max_upload_bytes,
        "max_audio_bytes": settings.max_audio_bytes,
        "max_audio_s": settings.max_audio_s,
        "max_text_chars": settings.max_text_chars,
    }


def ice_servers(shared: Shared) -> list[dict[str, Any]]:
    """As RTCPeerConnection takes them."""
    return [
        {
            "urls": list(server.urls),
            **({"username": server.username} if server.username else {}),
            **({"credential": server.credential.get_secret_value()} if server.credential else {}),
        }
        for server in shared.settings.ice_servers
    ]


@router.get("/avatars")
async def avatars(
    shared: Shared, caller: Annotated[Principal, Depends(may("session:view", "session:create"))]
) -> list[dict[str, Any]]:
    return shared.avatars.listed(caller.name)


@router.post("/avatars", status_code=201)
async def upload(
    request: Request,
    shared: Shared,
    caller: Annotated[Principal, Depends(may("session:create", kind="upload"))],
) -> dict[str, Any]:
    """A form with a picture of one face in the field `portrait`."""
    data = await receive_portrait(request, shared.settings.max_upload_bytes)
    return await shared.avatars.add(data, caller.name)


@router.get("/avatars/{id}/portrait.jpg")
async def portrait(id: str, shared: Shared) -> Response:
    """Open to whoever knows the id, because an <img> cannot send a key; ids of uploads are secrets."""
    jpeg = await shared.avatars.jpeg(id)
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
