"""WebRTC over HTTP: WHEP (draft-ietf-wish-whep) for viewers, and the same exchange for sessions with a microphone.

An offer is POSTed, the answer has every candidate of ours; late candidates of theirs come by PATCH; DELETE ends it and
is answered even when the peer has gone, because players close their connection first. ICE restarts are not supported:
they are refused (422) and the connection goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from emo_live.errors import BadInputError, EmoLiveError, NotSupportedError
from emo_live_server.auth import Principal
from emo_live_server.context import Context
from emo_live_server.depends import Caller, Opened, Shared, limited, may
from emo_live_server.live import Peer
from emo_live_server.problems import Problem
from emo_live_server.routes.sessions import NewSession, begin
from emo_live_server.uploads import receive_body

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
EXPOSED = ("Location", "ETag", "Link", "Accept-Patch", "Retry-After")
_ENDPOINT_METHODS = "POST, OPTIONS, HEAD"
_RESOURCE_METHODS = "PATCH, DELETE, OPTIONS"

router = APIRouter(tags=["webrtc"])

Viewer = Annotated[Principal, Depends(may("session:view", "session:create", kind="create"))]


# viewers


@router.post("/whep/{avatar}", status_code=201)
async def whep(avatar: str, request: Request, shared: Shared, caller: Viewer) -> Response:
    """A session of one's own to look at."""
    offer = await _sdp(request, SDP, shared.settings.max_sdp_bytes)
    shared.avatars.check(avatar)
    await shared.sessions.admit()
    shared.check_ready()
    async with _answered(shared, offer, shared.settings.size, receive_audio=False) as peer:
        live = await begin(shared, caller, NewSession(avatar=avatar), viewer=True)
        live.add_peer(peer, microphone=False)
    return _created(shared, peer, f"/whep/{avatar}/{live.id}")


@router.patch("/whep/{avatar}/{id}", status_code=204)
async def whep_candidates(avatar: str, request: Request, live: Opened, shared: Shared) -> Response:
    peer = next(iter(live.peers.values()), None)
    return await _candidates(shared, request, peer)


@router.delete("/whep/{avatar}/{id}", dependencies=[Depends(limited("control"))])
async def whep_delete(avatar: str, id: str, shared: Shared, caller: Caller) -> Response:
    if not shared.sessions.knows(id):
        raise Problem(404, "there is no such session", reason="no_session")
    await shared.sessions.end(id, "deleted")
    return Response(status_code=200)


@router.options("/whep/{avatar}")
@router.options("/whep/{avatar}/{id}")
async def whep_options() -> Response:
    return Response(status_code=200, headers={"Accept-Post": SDP})


@router.head("/whep/{avatar}")
async def whep_head(avatar: str, shared: Shared) -> Response:
    """How a player finds out that this is a WHEP endpoint."""
    shared.avatars.check(avatar)
    return Response(status_code=200, media_type=SDP)


@router.api_route("/whep/{avatar}", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def whep_others() -> Response:
    raise Problem(405, "this is a WHEP endpoint: POST an SDP offer", headers={"Allow": _ENDPOINT_METHODS})


@router.api_route("/whep/{avatar}/{id}", methods=["GET", "HEAD", "PUT", "POST"], include_in_schema=False)
async def whep_resource_others() -> Response:
    raise Problem(405, "this is a WHEP session: PATCH or DELETE it", headers={"Allow": _RESOURCE_METHODS})


# sessions with a microphone


@router.post("/v1/sessions/{id}/webrtc", status_code=201, dependencies=[Depends(limited("control"))])
async def duplex(request: Request, live: Opened, shared: Shared) -> Response:
    offer = await _sdp(request, SDP, shared.settings.max_sdp_bytes)
    async with _answered(shared, offer, live.size, receive_audio=True) as peer:
        name = live.add_peer(peer, microphone=True)
    return _created(shared, peer, f"/v1/sessions/{live.id}/webrtc/{name}")


@router.patch("/v1/sessions/{id}/webrtc/{peer}", status_code=204)
async def duplex_candidates(peer: str, request: Request, live: Opened, shared: Shared) -> Response:
    if not live.knows_peer(peer):
        raise Problem(404, "there is no such connection", reason="no_peer")
    return await _candidates(shared, request, live.peers.get(peer))


@router.delete("/v1/sessions/{id}/webrtc/{peer}", dependencies=[Depends(limited("control"))])
async def duplex_delete(id: str, peer: str, shared: Shared, caller: Caller) -> Response:
    """The session goes on without this peer."""
    if not shared.sessions.knows(id):
        raise Problem(404, "there is no such session", reason="no_session")
    live = shared.sessions.find(id)
    if live is not None:
        if not live.knows_peer(peer):
            raise Problem(404, "there is no such connection", reason="no_peer")
        await live.drop_peer(peer)
    return Response(status_code=200)


@router.options("/v1/sessions/{id}/webrtc")
@router.options("/v1/sessions/{id}/webrtc/{peer}")
async def duplex_options() -> Response:
    return Response(status_code=200, headers={"Accept-Post": SDP})


# both


async def _sdp(request: Request, media_type: str, limit_bytes: int) -> str:
    """Raises Problem: 415, 413, 400."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != media_type:
        raise Problem(415, f"send Content-Type: {media_type}")
    body = await receive_body(request, limit_bytes)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.strip():
        raise Problem(400, "the body must be SDP", reason="broken_sdp")
    return text


@contextlib.asynccontextmanager
async def _answered(shared: Context, offer: str, size: int, *, receive_audio: bool) -> AsyncIterator[Peer]:
    """A peer with its answer, as `_answer`; it is closed if it finds no session to show."""
    peer = await _answer(shared, offer, size, receive_audio=receive_audio)
    try:
        yield peer
    except BaseException:
        await peer.close()
        raise


async def _answer(shared: Context, offer: str, size: int, *, receive_audio: bool) -> Peer:
    """Raises Problem: 400 for an SDP that cannot be used, 422 for one without a codec of ours, 503."""
    if shared.rtc is None:
        shared.check_ready()
        raise Problem(501, 'this server has no WebRTC: pip install "emo-live[server]"', reason="not_supported")
    try:
        return await shared.rtc.answer(offer, size=(size, size), receive_audio=receive_audio)
    except BadInputError as error:
        raise Problem(400, str(error), reason="broken_sdp") from None
    except NotSupportedError as error:
        raise Problem(422, str(error), reason="no_common_codec") from None
    except EmoLiveError as error:
        raise Problem.of(error) from None


def _created(shared: Context, peer: Peer, location: str) -> Response:
    response = Response(peer.answer_sdp, 201, media_type=SDP)
    response.headers["Location"] = location
    response.headers["ETag"] = _tag(peer.etag)
    response.headers["Accept-Patch"] = FRAGMENT  # dropped from the draft, still read by older players
    for server in shared.settings.ice_servers:
        for url in server.urls:
            link = f'<{url}>; rel="ice-server"'
            if server.username and server.credential:
                secret = server.credential.get_secret_value()
                link += f'; username="{server.username}"; credential="{secret}"; credential-type="password"'
            response.headers.append("Link", link)
    return response


async def _candidates(shared: Context, request: Request, peer: Peer | None) -> Response:
    """204; 412 for a tag that is not the connection's, 422 for an ICE restart. No tag is fine: whip-whep sends none."""
    fragment = await _sdp(request, FRAGMENT, shared.settings.max_sdp_bytes)
    if peer is None or peer.closed.is_set():
        raise Problem(404, "this connection has ended", reason="no_peer")
    wanted = request.headers.get("if-match")
    if wanted == "*":
        raise Problem(422, "ICE restarts are not supported: connect again", reason="ice_restart")
    if wanted is not None and _tag(peer.etag) not in [_tag(tag) for tag in wanted.split(",")]:
        raise Problem(412, "this is about another ICE session", reason="stale_etag")
    try:
        await peer.add_candidates(fragment)
    except NotSupportedError:
        raise Problem(422, "ICE restarts are not supported: connect again", reason="ice_restart") from None
    except BadInputError as error:
        raise Problem(400, str(error), reason="broken_sdp") from None
    return Response(status_code=204)


def _tag(etag: str) -> str:
    return '"' + etag.strip().removeprefix("W/").strip('"') + '"'
