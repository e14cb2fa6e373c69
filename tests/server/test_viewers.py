"""Viewers of a session: connections with a microphone, what is said into it, the greeting, one viewer too many."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fake_parts import FRAGMENT, SDP, connect, heard, running
from waiting import until

from emo_live.types import AudioChunk


async def test_duplex_is_whep_with_a_microphone() -> None:
    async with running() as server:
        session = await server.session(size=256)
        reply = await connect(server, session)
        location = reply.headers["location"]
        assert location.startswith(f"{session['webrtc_url']}/")
        assert server.rtc.asked == [((256, 256), True)]
        fragment = await server.http.patch(location, content="a=mid:0", headers=FRAGMENT)
        assert fragment.status_code == 204
        for path in (location, session["webrtc_url"]):
            assert (await server.http.options(path)).headers["accept-post"] == "application/sdp"
        assert (await server.http.delete(location)).status_code == 200
        await until(lambda: not server.sessions[0].sinks)
        assert (await server.http.delete(location)).status_code == 200
        assert (await server.http.patch(location, content="a=mid:0", headers=FRAGMENT)).status_code == 404
        assert (await server.http.delete(f"{session['webrtc_url']}/nobody")).status_code == 404
        assert not server.sessions[0].closed, "the session outlives its peer: a page may connect again"
        await connect(server, session)
        for body, headers, status in (("x", {}, 415), ("broken", SDP, 400), ("no codec", SDP, 422)):
            assert (await server.http.post(session["webrtc_url"], content=body, headers=headers)).status_code == status


async def test_of_too_many_viewers_the_oldest_goes() -> None:
    async with running() as server:
        session = await server.session()
        for _ in range(6):
            await connect(server, session)
        await until(lambda: [peer.closed.is_set() for peer in server.rtc.peers] == [True] * 2 + [False] * 4)
        assert len(server.sessions[0].sinks) == 4


async def test_the_greeting_waits_for_a_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.live._GREET_AFTER_S", 0.01)
    async with running(greeting="Hello there") as server:
        session = await server.session(greet=True)
        await connect(server, session)
        await asyncio.sleep(0.05)
        assert server.sessions[0].texts == []
        server.rtc.peers[0].connected.set()
        await until(lambda: server.sessions[0].texts == ["Hello there"])
        await connect(server, session)
        server.rtc.peers[1].connected.set()
        await asyncio.sleep(0.05)
        assert server.sessions[0].texts == ["Hello there"], "once is enough"


def mumble(duration_s: float, level: float) -> list[AudioChunk]:
    """20 ms chunks at 48 kHz, as a browser's microphone gives them."""
    noise = np.random.default_rng(0).standard_normal((round(duration_s * 50), 960)) * level
    return [AudioChunk(chunk.astype(np.float32), 48_000) for chunk in noise]


async def test_what_is_said_into_the_microphone_is_spoken() -> None:
    async with running() as server:
        await connect(server, await server.session())
        session, peer = server.sessions[0], server.rtc.peers[0]
        for chunk in [*mumble(1, 0.0005), *mumble(0.5, 0.1), *mumble(1, 0.0005), *mumble(0.5, 0.1)]:
            peer.sound.put_nowait(chunk)
        await until(lambda: len(session.texts) == 2 and peer.sound.empty())
        await asyncio.sleep(0.05)
        spoken_s = len(heard(server)) / 48_000
        assert 1.5 < spoken_s < 2.2, "two pieces with a little before and a pause after, not the silence"
        for chunk in mumble(1, 0.0005):
            peer.sound.put_nowait(chunk)
        await until(lambda: not session._speaking)


async def test_a_microphone_repeats_sentence_after_sentence_but_does_not_talk_into_texts() -> None:
    async with running() as server:
        await connect(server, await server.session())
        session, peer = server.sessions[0], server.rtc.peers[0]
        session.hold = True  # what was said is still being heard when the next sentence begins
        for chunk in [*mumble(0.5, 0.1), *mumble(1, 0.0005), *mumble(0.5, 0.1)]:
            peer.sound.put_nowait(chunk)
        await until(lambda: session.texts == ["(sound)", "(sound)"])
        await session.interrupt()
        for chunk in mumble(1, 0.0005):
            peer.sound.put_nowait(chunk)
        await session.say("hello")
        await until(peer.sound.empty)
        await asyncio.sleep(0.01)
        for chunk in mumble(1, 0.1):
            peer.sound.put_nowait(chunk)
        await until(peer.sound.empty)
        await asyncio.sleep(0.01)
        assert session.texts == ["(sound)", "(sound)", "hello"]


async def test_a_microphone_that_is_switched_off_ends_the_utterance_and_may_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then nothing comes at all, not even silence."""
    monkeypatch.setattr("emo_live_server.microphone.AFTER_S", 0.05)
    async with running() as server:
        await connect(server, await server.session())
        session, peer = server.sessions[0], server.rtc.peers[0]
        for times in (1, 2, 3):
            for chunk in mumble(0.5, 0.1):
                peer.sound.put_nowait(chunk)
            await until(lambda times=times: len(session.texts) == times and not session._speaking)  # type: ignore[misc]
        await peer.close()
        await until(lambda: not session.sinks)
