"""Sessions over HTTP: made, spoken through, steered, watched, ended; what goes wrong in one leaves the others alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_parts import SDP, connect, heard, running
from fakes import syllables, write_wav
from waiting import until

from emo_live.events import SessionClosed, SessionStats


async def test_a_session_is_made() -> None:
    async with running() as server:
        session = await server.session(size=256, speed=2, motion=0.5)
        assert len(session["id"]) >= 22
        assert session["webrtc_url"] == f"/v1/sessions/{session['id']}/webrtc"
        assert session["realtime_url"] == f"/v1/sessions/{session['id']}/realtime"
        assert (session["avatar"], session["size"]) == (server.context.avatars.default, 256)
        assert session["ai_generated"] is True
        wish = server.sessions[0].wish
        assert (wish.size, wish.speed, wish.motion) == (256, 2, 0.5)
        shown = (await server.http.get(f"/v1/sessions/{session['id']}")).json()
        assert (shown["state"], shown["ai_generated"]) == ("idle", True)
        assert server.count("session_active") == 1


async def test_a_session_needs_no_wish() -> None:
    async with running() as server:
        assert (await server.http.post("/v1/sessions")).status_code == 201


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"avatar": "nobody"}, 404),
        ({"size": 300}, 422),
        ({"speed": 31}, 422),
        ({"motion": -0.1}, 422),
        ({"avatar": 7}, 422),
        ({"seed": 7}, 422),
        ([], 422),
    ],
)
async def test_wishes_that_cannot_be_granted(wish: Any, status: int) -> None:
    async with running() as server:
        reply = await server.http.post("/v1/sessions", json=wish)
        assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
        assert server.sessions == []


async def test_full_and_draining() -> None:
    async with running() as server:
        server.pool.places = 0
        reply = await server.http.post("/v1/sessions")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        server.pool.places = 1
        server.context.sessions.draining = True
        reply = await server.http.post("/v1/sessions")
        assert (reply.status_code, reply.json()["type"]) == (503, "urn:emo-live:draining")
        assert "retry-after" in reply.headers
        assert (await server.http.get("/readyz")).json()["state"] == "draining"
        assert (await server.http.get("/healthz")).status_code == 200


async def test_sessions_that_nobody_uses_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.sessions._ALONE_S", 0.05)
    async with running(max_sessions=1) as server:
        await server.session()
        assert (await server.http.post("/v1/sessions")).status_code == 503, "it was asked for just now"
        await asyncio.sleep(0.06)
        second = await server.session()
        assert server.sessions[0].closed
        await connect(server, second)
        await asyncio.sleep(0.06)
        assert (await server.http.post("/v1/sessions")).status_code == 503, "somebody is looking"
        await server.rtc.peers[0].close()
        await asyncio.sleep(0.06)
        await server.session()
        assert server.count("sessions_closed_total", reason="gave_way") == 2


async def test_draining_waits_for_sessions_and_then_ends_them() -> None:
    async with running(drain_s=0.1) as server:
        await server.session()
        drain = asyncio.create_task(server.context.sessions.drain())
        await asyncio.sleep(0.02)
        assert not server.sessions[0].closed
        await drain
        assert server.sessions[0].closed
    async with running(drain_s=20) as server:
        session = await server.session()
        drain = asyncio.create_task(server.context.sessions.drain())
        await asyncio.sleep(0)
        await server.http.delete(f"/v1/sessions/{session['id']}")
        async with asyncio.timeout(1):
            await drain


async def test_a_text_is_said() -> None:
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}"
        reply = await server.http.post(f"{url}/say", json={"text": "hello", "voice": "ada"})
        assert (reply.status_code, reply.json()["utterance"], reply.json()["ai_generated"]) == (202, "u1", True)
        assert server.sessions[0].texts == ["hello"]


@pytest.mark.parametrize(
    "speech", [{}, {"text": ""}, {"text": " "}, {"text": "x" * 2001}, {"text": "x", "voice": "eve"}, {"text": 1}]
)
async def test_texts_that_cannot_be_said(speech: dict[str, Any]) -> None:
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}"
        reply = await server.http.post(f"{url}/say", json=speech)
        assert reply.status_code == 422
        assert "x" * 20 not in reply.text


@pytest.mark.parametrize("form", [True, False])
async def test_a_sound_file_is_spoken(tmp_path: Path, form: bool) -> None:
    pcm = syllables(2.0, 22_050)
    data = write_wav(tmp_path / "speech.wav", pcm, 22_050).read_bytes()
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}/audio"
        if form:
            reply = await server.http.post(url, files={"audio": ("my name.wav", data)})
        else:
            reply = await server.http.post(url, content=data, headers={"Content-Type": "audio/wav"})
        assert (reply.status_code, reply.json()["utterance"]) == (202, "u1")
        await until(lambda: not server.sessions[0]._speaking)
        assert {chunk.rate_hz for chunk in server.sessions[0].heard} == {22_050}
        np.testing.assert_allclose(heard(server), pcm, atol=1e-4)


async def test_no_temporary_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    good = write_wav(tmp_path / "speech.wav", syllables(1.0)).read_bytes()
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}/audio"
        for body in (good, b"", b"not sound at all" * 100, good[:60]):
            await server.http.post(url, content=body)
        server.sessions[0].hold = True
        await server.http.post(url, content=good)
        await server.http.post(f"/v1/sessions/{url.split('/')[3]}/interrupt")
        await until(lambda: not list((tmp_path / "tmp").iterdir()))


@pytest.mark.parametrize(
    ("body", "status", "settings"),
    [
        (b"", 400, {}),
        (b"no sound in here" * 64, 422, {}),
        ("long", 422, {"max_audio_s": 0.5}),
        ("long", 413, {"max_audio_bytes": 1000}),
    ],
)
async def test_sound_files_that_are_refused(tmp_path: Path, body: Any, status: int, settings: dict[str, Any]) -> None:
    if body == "long":
        body = write_wav(tmp_path / "speech.wav", syllables(1.0)).read_bytes()
    async with running(**settings) as server:
        url = f"/v1/sessions/{(await server.session())['id']}/audio"
        for sending in ({"content": body}, {"files": {"audio": ("a.wav", body)}}):
            reply = await server.http.post(url, **sending)  # type: ignore[arg-type]
            assert reply.status_code == status, reply.text
            assert ".audio" not in reply.text, "names of temporary files are nobody's business"
        assert server.sessions[0].texts == []


async def test_an_interrupt_says_what_was_heard() -> None:
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}"
        server.sessions[0].hold = True
        await server.http.post(f"{url}/say", json={"text": "hello"})
        await until(lambda: server.sessions[0].state == "speaking")
        assert (await server.http.post(f"{url}/interrupt")).json() == {"utterance": "u1", "heard_ms": 40}
        assert (await server.http.post(f"{url}/interrupt")).json() == {"utterance": None, "heard_ms": 0}
        assert server.count("interrupts_total") == 2


async def test_fifty_interrupts_a_second_are_obeyed_or_refused_and_harm_nobody() -> None:
    async with running(rate_control="40/second") as server:
        noisy, calm = [f"/v1/sessions/{(await server.session())['id']}" for _ in range(2)]
        server.sessions[1].hold = True
        await server.http.post(f"{calm}/say", json={"text": "let me finish"})
        replies = [await server.http.post(f"{noisy}/interrupt") for _ in range(100)]
        assert {reply.status_code for reply in replies} == {200, 429}
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 429)
        assert server.count("refused_total", reason="rate_limited") > 0
        assert server.sessions[1]._speaking.keys() == {"u1"}


async def test_pause_resume_control_and_stats() -> None:
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}"
        assert (await server.http.post(f"{url}/pause")).json() == {"state": "paused"}
        assert (await server.http.post(f"{url}/resume")).json() == {"state": "idle"}
        assert (await server.http.post(f"{url}/control", json={"motion": 2})).json() == {"motion": 2}
        assert server.sessions[0].controls == [(None, 2)]
        for wrong in ({}, {"motion": 3}, {"speed": "fast"}, {"loud": 1}):
            assert (await server.http.post(f"{url}/control", json=wrong)).status_code == 422
        stats = (await server.http.get(f"{url}/stats")).json()
        assert stats["session"]["level"] == 0
        assert stats["peers"] == []


async def test_delete_is_answered_twice_and_what_is_gone_is_not_found() -> None:
    async with running() as server:
        url = f"/v1/sessions/{(await server.session())['id']}"
        assert (await server.http.delete(url)).status_code == 200
        assert (await server.http.delete(url)).status_code == 200
        assert server.sessions[0].closed
        for method, path in (("GET", ""), ("POST", "/interrupt"), ("GET", "/stats"), ("POST", "/webrtc")):
            reply = await server.http.request(method, url + path)
            assert reply.status_code == 404
        assert (await server.http.delete("/v1/sessions/nobody")).status_code == 404


@pytest.mark.parametrize("announced", [True, False])
async def test_bodies_have_a_limit_everywhere(announced: bool) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    async with running() as server:
        headers = {"Content-Type": "application/json"}
        body = b" " * 2_000_000 if announced else endless()
        reply = await server.http.post("/v1/sessions", content=body, headers=headers)
        assert (reply.status_code, reply.headers["content-type"]) == (413, "application/problem+json")


async def test_methods_that_nobody_knows_are_one_line_of_the_metrics() -> None:
    async with running() as server:
        for method in ("BREW", "WHEN"):
            await server.http.request(method, "/v1/config")
        assert 'method="BREW"' not in (await server.http.get("/metrics")).text


async def test_idle_sessions_end_and_watched_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.sessions._LOOK_EVERY_S", 0.02)
    async with running(session_idle_s=0.15) as server:
        await server.session()
        watched = await server.session()
        await connect(server, watched)
        server.rtc.peers[0].connected.set()
        await until(lambda: server.sessions[0].closed)
        assert not server.sessions[1].closed
        await server.rtc.peers[0].close()
        await asyncio.sleep(0.05)
        assert not server.sessions[1].closed, "it outlives its viewer"
        await until(lambda: server.sessions[1].closed)
        assert server.count("sessions_closed_total", reason="idle") == 2


async def test_an_operator_may_limit_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.sessions._LOOK_EVERY_S", 0.02)
    async with running(max_session_s=0.1) as server:
        await connect(server, await server.session())
        server.rtc.peers[0].connected.set()
        await until(lambda: server.sessions[0].closed)
        assert server.rtc.peers[0].closed.is_set()


async def test_an_engine_that_fails_ends_its_session_only() -> None:
    async with running() as server:
        first = await server.session()
        await server.session()
        server.sessions[0].emit(SessionClosed("the engine died"))
        await until(lambda: server.sessions[0].closed)
        assert (await server.http.get(f"/v1/sessions/{first['id']}")).status_code == 404
        assert not server.sessions[1].closed
        assert server.count("sessions_closed_total", reason="engine_failed") == 1


async def test_the_metrics_have_their_names() -> None:
    async with running() as server:
        await connect(server, await server.session())
        await server.http.post("/whep/default", content="broken", headers=SDP)
        session = server.sessions[0]
        report = SessionStats(
            pairs=25, underruns=2, dropped={"interrupt": 3}, first_frame_ms=310.0, engine_ms_per_frame=21.0,
            playout_depth_ms=120,
        )  # fmt: skip
        session.report(report)
        session.report(report)
        await until(lambda: server.count("underruns_total") == 2)
        assert server.count("frames_dropped_total", reason="interrupt") == 3
        text = (await server.http.get("/metrics")).text
        for line in (
            "session_active 1.0",
            "first_frame_seconds_count 1.0",
            'stage_seconds_count{stage="engine"} 1.0',
            "playout_depth_ms 120.0",
            "rtc_target_bitrate_bps 1e+06",
            "# TYPE av_offset_ms gauge",
            "# TYPE gpu_step_seconds gauge",
            'refused_total{reason="broken_sdp"} 1.0',
            'http_requests_total{method="POST",route="/v1/sessions",status="201"} 1.0',
        ):
            assert line in text, line
        assert session.avatar.id not in text


async def test_nothing_is_left_when_the_app_stops() -> None:
    async with running() as server:
        await connect(server, await server.session())
        await server.session()
        rtc, sessions = server.rtc, server.sessions
    assert all(session.closed for session in sessions)
    assert all(peer.closed.is_set() for peer in rtc.peers)
    await asyncio.sleep(0)
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert [name for name in left if "expire" not in name] == []
