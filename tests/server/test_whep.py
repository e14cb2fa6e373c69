"""WHEP: every status of the draft (draft-ietf-wish-whep) and of our own rules, and what belongs to each reply."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_parts import FRAGMENT, OFFER, SDP, Running, running
from waiting import until

ICE = [
    {"urls": "stun:stun.example.org"},
    {"urls": ["turn:turn.example.org?transport=udp"], "username": "me", "credential": "secret"},
]


async def watch(server: Running, **headers: str) -> Any:
    reply = await server.http.post("/whep/default", content=OFFER, headers={**SDP, **headers})
    assert reply.status_code == 201, reply.text
    return reply


async def test_an_offer_gets_its_answer() -> None:
    async with running(ice_servers=ICE) as server:
        reply = await watch(server)
        assert reply.text == "v=0 a fake answer"
        assert reply.headers["content-type"].split(";")[0] == "application/sdp"
        assert reply.headers["etag"] == '"tag-1"'
        assert reply.headers["accept-patch"] == "application/trickle-ice-sdpfrag"
        _, whep, avatar, secret = reply.headers["location"].split("/")
        assert (whep, avatar) == ("whep", "default")
        assert len(secret) >= 22, "128 random bits are 22 letters of base64"
        assert reply.headers.get_list("link") == [
            '<stun:stun.example.org>; rel="ice-server"',
            '<turn:turn.example.org?transport=udp>; rel="ice-server"; username="me"; credential="secret"; '
            'credential-type="password"',
        ]
        assert server.rtc.asked == [((512, 512), False)]
        assert server.sessions[0].sinks == server.rtc.peers
        assert reply.headers["x-ai-generated"] == "true"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (OFFER, {"Content-Type": "application/json"}, 415),
        (OFFER, {}, 415),
        ("broken", SDP, 400),
        ("", SDP, 400),
        (b"\xff\xfe", SDP, 400),
        ("video to us", SDP, 400),
        ("no codec", SDP, 422),
        ("busy", SDP, 503),
        ("x" * 64_001, SDP, 413),
    ],
)
async def test_offers_that_are_refused(body: Any, headers: dict[str, str], status: int) -> None:
    async with running() as server:
        reply = await server.http.post("/whep/default", content=body, headers=headers)
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/problem+json"
        problem = reply.json()
        assert problem["status"] == status
        assert problem["type"].startswith("urn:emo-live:")
        assert server.sessions == []
        assert server.count("refused_total", reason=problem["type"].split(":")[-1]) == 1
        await watch(server)


async def test_the_charset_of_the_content_type_does_not_matter() -> None:
    async with running() as server:
        await watch(server, **{"Content-Type": "Application/SDP; charset=utf-8"})


async def test_a_body_without_announced_length_is_cut_off() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b"x" * 10_000

    async with running() as server:
        reply = await server.http.post("/whep/default", content=endless(), headers=SDP)
        assert reply.status_code == 413


async def test_an_unknown_avatar_is_not_found() -> None:
    async with running() as server:
        reply = await server.http.post("/whep/nobody", content=OFFER, headers=SDP)
        assert reply.status_code == 404


async def test_while_warming_up_the_answer_is_to_try_again() -> None:
    async with running() as server:
        server.context.ready = False
        reply = await server.http.post("/whep/default", content=OFFER, headers=SDP)
        assert (reply.status_code, reply.headers["retry-after"]) == (409, "2")
        server.context.ready = True
        await watch(server)


async def test_when_full_the_answer_is_to_try_later() -> None:
    async with running() as server:
        server.pool.places = 0
        reply = await server.http.post("/whep/default", content=OFFER, headers=SDP)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert server.rtc.peers == []
        server.pool.places = 1
        await watch(server)


async def test_the_limit_of_sessions_counts_those_that_are_being_made() -> None:
    async with running(max_sessions=2) as server:
        posts = [server.http.post("/whep/default", content=OFFER, headers=SDP) for _ in range(6)]
        statuses = sorted(reply.status_code for reply in await asyncio.gather(*posts))
        assert statuses == [201, 201, 503, 503, 503, 503]
        refused = [peer for peer in server.rtc.peers if peer.closed.is_set()]
        assert len(server.rtc.peers) - len(refused) == 2, "who got no session got no connection"


async def candidates(server: Running, location: str, body: str = "a=mid:0", **headers: str) -> int:
    reply = await server.http.patch(location, content=body, headers={**FRAGMENT, **headers})
    if reply.status_code == 204:
        assert reply.content == b""
        assert "etag" not in reply.headers
    return reply.status_code


async def test_candidates_come_by_patch() -> None:
    async with running() as server:
        reply = await watch(server)
        location, tag = reply.headers["location"], reply.headers["etag"]
        assert await candidates(server, location, **{"If-Match": tag}) == 204
        assert await candidates(server, location) == 204, "whip-whep sends no tag"
        assert await candidates(server, location, **{"If-Match": '"another"'}) == 412
        assert await candidates(server, location, **{"If-Match": "*"}) == 422
        assert await candidates(server, location, "restart") == 422
        assert await candidates(server, location, "broken") == 400
        assert await candidates(server, location, **{"Content-Type": "text/plain"}) == 415
        assert await candidates(server, location, "x" * 64_001) == 413
        assert await candidates(server, "/whep/default/nobody") == 404
        assert len(server.rtc.peers[0].fragments) == 2
        assert not server.rtc.peers[0].closed.is_set(), "a refused restart leaves the connection as it is"


async def test_delete_ends_it_and_is_answered_twice() -> None:
    async with running() as server:
        location = (await watch(server)).headers["location"]
        assert (await server.http.delete(location, headers={"If-Match": '"stale"'})).status_code == 200
        assert server.sessions[0].closed
        assert server.rtc.peers[0].closed.is_set()
        assert (await server.http.delete(location)).status_code == 200
        assert (await server.http.delete("/whep/default/nobody")).status_code == 404
        assert await candidates(server, location) == 404


async def test_delete_is_answered_when_the_peer_has_gone() -> None:
    """The reference client closes its connection before it says goodbye."""
    async with running() as server:
        location = (await watch(server)).headers["location"]
        server.rtc.peers[0].connected.set()
        await server.rtc.peers[0].close()
        await until(lambda: server.sessions[0].closed)
        assert (await server.http.delete(location)).status_code == 200


async def test_whoever_never_connects_is_forgotten() -> None:
    async with running(connect_timeout_s=0.05) as server:
        await watch(server)
        await until(lambda: server.sessions[0].closed)
        assert server.count("refused_total", reason="never_connected") == 1
        assert len(server.context.sessions) == 0


@pytest.mark.parametrize("path", ["/whep/default", "/whep/default/some-secret"])
async def test_options(path: str) -> None:
    async with running(cors_origins="https://player.example") as server:
        plain = await server.http.options(path)
        assert (plain.status_code, plain.headers["accept-post"]) == (200, "application/sdp")
        headers = {
            "Origin": "https://player.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,if-match",
        }
        preflight = await server.http.options(path, headers=headers)
        assert (preflight.status_code, preflight.headers["accept-post"]) == (200, "application/sdp")
        assert preflight.headers["access-control-allow-origin"] == "https://player.example"
        assert "PATCH" in preflight.headers["access-control-allow-methods"]


async def test_other_pages_may_read_what_players_need() -> None:
    async with running(cors_origins="https://player.example") as server:
        reply = await watch(server, Origin="https://player.example")
        exposed = {name.strip() for name in reply.headers["access-control-expose-headers"].split(",")}
        assert {"Location", "ETag", "Link", "Accept-Patch"} <= exposed


async def test_head_tells_what_this_is() -> None:
    async with running() as server:
        reply = await server.http.head("/whep/default")
        assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, "application/sdp")
        assert (await server.http.head("/whep/nobody")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/whep/default", "POST, OPTIONS, HEAD"),
        ("PUT", "/whep/default", "POST, OPTIONS, HEAD"),
        ("GET", "/whep/default/secret", "PATCH, DELETE, OPTIONS"),
        ("POST", "/whep/default/secret", "PATCH, DELETE, OPTIONS"),
    ],
)
async def test_other_methods(method: str, path: str, allowed: str) -> None:
    async with running() as server:
        reply = await server.http.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


async def test_a_key_is_asked_for() -> None:
    async with running(api_keys="an-api-key-of-24-letters") as server:
        refused = await server.http.post("/whep/default", content=OFFER, headers=SDP)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        wrong = await server.http.post(
            "/whep/default", content=OFFER, headers={**SDP, "Authorization": "Bearer another-key-of-24-letters"}
        )
        assert wrong.status_code == 401
        assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
        right = {"Authorization": "Bearer an-api-key-of-24-letters"}
        location = (await watch(server, **right)).headers["location"]
        assert await candidates(server, location, **right) == 204
        assert await candidates(server, location) == 204, "the URL is a secret of its own"
        assert await candidates(server, location, Authorization="Bearer wrong") == 401
        assert (await server.http.delete(location, headers=right)).status_code == 200


async def test_too_many_requests() -> None:
    async with running(rate_create="2/minute") as server:
        await watch(server)
        await watch(server)
        reply = await server.http.post("/whep/default", content=OFFER, headers=SDP)
        assert reply.status_code == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 61
