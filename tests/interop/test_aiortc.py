"""A whole connection over UDP on this machine: what arrives, what is asked for, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
from typing import Any

import numpy as np
import pytest
from aiortc import RTCPeerConnection

from emo_live.engine.test_pattern import beep, picture, read_index
from emo_live.errors import BadInputError, NotReadyError, NotSupportedError
from emo_live.transport import rtc_peer
from emo_live.transport.webrtc import RtcHost, RtcPeer, RtcSettings
from emo_live.types import FPS, AVPair
from tests.interop.aiortc_player import SETTINGS, SIZE, connected, pace, player, run


def noisy(index: int) -> AVPair:
    """Sound, and a picture that takes every bit it can get."""
    random = np.random.default_rng(index)
    return AVPair(index, random.integers(0, 255, (SIZE, SIZE, 3), np.uint8), beep(0))


def test_bitrate_changes_without_a_keyframe_and_keyframes_come_when_asked_for() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            peer._rate.receiver_estimates = lambda bps: None  # type: ignore[method-assign]  # aiortc's own guesses
            await pace(peer, 10, 0, noisy)
            for bitrate in (300_000, 1_200_000, 200_000):
                peer._rate._by_receiver = float(bitrate)
                await pace(peer, 10, peer.stats().pairs_sent, noisy)
            assert peer.stats().keyframes == 1
            receiver = next(r for r in seen.connection.getReceivers() if r.track.kind == "video")
            (source,) = receiver.getSynchronizationSources()
            await receiver._send_rtcp_pli(source.source)
            await pace(peer, 10, peer.stats().pairs_sent, noisy)
            assert peer.stats().keyframes == 2
            for _ in range(20):
                await receiver._send_rtcp_pli(source.source)
                await pace(peer, 1, peer.stats().pairs_sent, noisy)
            assert peer.stats().keyframes in (4, 5), "not one for every request"
            assert peer.stats().pairs_dropped == 0

    run(main)


def test_the_microphone_arrives() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host, microphone=True, receive_audio=True) as (seen, peer):
            assert "a=sendrecv" in peer.answer_sdp.split("m=video")[0]
            assert "a=sendonly" in peer.answer_sdp.split("m=video")[1]
            heard = []
            async for chunk in peer.microphone():
                heard.append(chunk)
                if len(heard) == 40:
                    break
            pcm = np.concatenate([chunk.pcm for chunk in heard[10:]])
            assert {chunk.rate_hz for chunk in heard} == {48_000}
            spectrum = np.abs(np.fft.rfft(pcm))
            assert np.argmax(spectrum) * 48_000 / len(pcm) == pytest.approx(440, abs=5)
            # Nobody listens any more: it is drained all the same, and the oldest sound is dropped.
            await asyncio.sleep(1.5)
            assert peer.stats().microphone_dropped > 0
            await peer.close()
            assert len([chunk async for chunk in peer.microphone()]) <= 50

    run(main)


def test_a_viewer_sends_nothing_even_if_it_offers_to() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host, microphone=True) as (seen, peer):
            assert peer.answer_sdp.count("a=sendonly") == 2
            assert [chunk async for chunk in peer.microphone()] == []
        async with connected(host, receive_audio=True) as (seen, peer):
            assert peer.answer_sdp.count("a=sendonly") == 2
            assert [chunk async for chunk in peer.microphone()] == []

    run(main)


def test_whole_pairs_are_dropped_and_sound_does_not_jump() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            await pace(peer, 5)
            for index in range(5, 17):  # all at once: more than the queue holds
                peer.offer(AVPair(index, picture(index, SIZE), beep(index)))
            await asyncio.sleep(0.1)
            await pace(peer, 20, 17)
            stats = peer.stats()
            assert stats.pairs_dropped == 12 - rtc_peer.QUEUE
            assert stats.pairs_sent == 25 + rtc_peer.QUEUE
            await asyncio.sleep(0.3)
        times = [frame.pts for _, frame in seen.frames["audio"]]
        assert times == list(range(0, 960 * len(times), 960))
        indexes = [read_index(frame.to_ndarray(format="rgb24")) for _, frame in seen.frames["video"]]
        steps = [frame.pts // 3600 for _, frame in seen.frames["video"]]
        assert indexes == [step if step % FPS else None for step in steps], "pictures keep their time"

    run(main)


def test_what_is_offered_before_the_connection_or_after_it_is_ignored() -> None:
    async def main(host: RtcHost) -> None:
        async with player() as seen:
            peer = await host.answer(await seen.offer(), size=(SIZE, SIZE))
            for index in range(50):
                peer.offer(AVPair(index, picture(index, SIZE), beep(index)))
            await seen.accept(peer.answer_sdp)
            await peer.connected.wait()
            await pace(peer, 5, 50)
            assert peer.stats().pairs_sent == 5
            await peer.close()
            peer.offer(AVPair(56, picture(56, SIZE), beep(56)))
            assert peer.closed.is_set()
            assert not peer.stats().connected

    run(main)


def test_twenty_connections_leave_nothing_behind() -> None:
    async def main(host: RtcHost) -> None:
        async def once(ours_first: bool) -> None:
            async with connected(host, microphone=True, receive_audio=True) as (seen, peer):
                await pace(peer, 2)
                if ours_first:
                    await peer.close()
            async with asyncio.timeout(5):
                await peer.closed.wait()
                await peer.close()

        async def count() -> tuple[int, int, int]:
            await asyncio.sleep(0.2)
            gc.collect()
            return len(asyncio.all_tasks()), len(os.listdir("/dev/fd")), threading.active_count()

        await once(True)
        before = await count()
        for attempt in range(20):
            await once(attempt % 2 == 0)
        after = await count()
        assert after[:2] == before[:2]
        assert after[2] <= before[2] + (os.cpu_count() or 2), "threads of the pool start as they are needed"

    run(main)


def test_lost_packets_are_sent_again() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            lose_every(peer, 40)
            await pace(peer, 2 * FPS, 0, noisy)
            await asyncio.sleep(0.3)
            assert peer.stats().keyframes <= 2, "repeated packets mend the picture, not keyframes"
        assert len(seen.frames["video"]) > 2 * FPS - 5
        steps = [frame.pts // 3600 for _, frame in seen.frames["video"]]
        assert steps == sorted(set(steps))

    run(main)


def lose_every(peer: RtcPeer, nth: int) -> None:
    """Of the video packets that leave."""
    transport = peer._connection.getTransceivers()[0].receiver.transport.transport
    send, counted = transport._send, itertools.count(1)

    async def lossy(data: bytes) -> None:
        if len(data) < 300 or next(counted) % nth:
            await send(data)

    transport._send = lossy  # type: ignore[method-assign]


def test_a_client_that_says_goodbye_is_noticed_at_once() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            await seen.connection.close()
            async with asyncio.timeout(2):
                await peer.closed.wait()
            assert peer.reason == "the client left"

    run(main)


def test_a_client_that_vanishes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc_peer, "SILENCE_S", 1.0)
    monkeypatch.setattr(rtc_peer, "WATCH_S", 0.2)

    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            while peer.stats().rtt_ms is None:  # it has reported once
                await pace(peer, 5, peer.stats().pairs_sent)
            seen.vanish()
            async with asyncio.timeout(8):
                await peer.closed.wait()
            assert peer.reason == "the client vanished"

    run(main)


def test_a_client_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc_peer, "CONNECT_S", 0.5)
    monkeypatch.setattr(rtc_peer, "WATCH_S", 0.1)

    async def main(host: RtcHost) -> None:
        async with player() as seen:
            peer = await host.answer(await seen.offer(), size=(SIZE, SIZE))
            async with asyncio.timeout(3):
                await peer.closed.wait()
            assert peer.reason == "the client did not connect"

    run(main)


def trickled(offer: str) -> tuple[str, list[str]]:
    """An offer without its candidates, and the candidates."""
    lines = offer.split("\r\n")
    late = [line for line in lines if line.startswith("a=candidate")]
    return "\r\n".join(line for line in lines if not line.startswith(("a=candidate", "a=end-of"))), late


def test_video_may_be_offered_first() -> None:
    async def main(host: RtcHost) -> None:
        async with player(kinds=("video", "audio")) as seen:
            peer = await host.answer(await seen.offer(), size=(SIZE, SIZE))
            assert peer.answer_sdp.index("m=video") < peer.answer_sdp.index("m=audio")
            await seen.accept(peer.answer_sdp)
            async with asyncio.timeout(5):
                await peer.connected.wait()
            await pace(peer, 10)
        assert min(map(len, seen.frames.values())) > 5

    run(main)


def test_a_data_channel_is_refused_and_the_rest_goes_on() -> None:
    async def main(host: RtcHost) -> None:
        async with player() as seen:
            seen.connection.createDataChannel("chat")
            peer = await host.answer(await seen.offer(), size=(SIZE, SIZE))
            assert "m=application 0 " in peer.answer_sdp

    run(main)


def test_candidates_may_come_late() -> None:
    async def main(host: RtcHost) -> None:
        async with player() as seen:
            offer, late = trickled(await seen.offer())
            peer = await host.answer(offer, size=(SIZE, SIZE))
            ufrag = offer.split("a=ice-ufrag:")[1].split("\r\n")[0]
            unresolvable = "a=candidate:9 1 udp 1 3b2f6c1e-0000-4000-8000-000000000000.local 9 typ host"
            fragment = "\r\n".join([f"a=ice-ufrag:{ufrag}", "m=audio 9 X 0", "a=mid:0", unresolvable, *late])
            async with asyncio.timeout(0.5):
                await peer.add_candidates(fragment + "\r\na=end-of-candidates\r\n")
            await seen.accept(peer.answer_sdp)
            async with asyncio.timeout(5):
                await peer.connected.wait()

    run(main)


def test_an_ice_restart_is_refused_and_the_connection_goes_on() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            with pytest.raises(NotSupportedError, match="restart"):
                await peer.add_candidates("a=ice-ufrag:other\r\na=ice-pwd:0123456789012345678901\r\n")
            with pytest.raises(BadInputError):
                await peer.add_candidates("rubbish")
            await pace(peer, 3)
            assert peer.stats().pairs_sent == 3
            assert not peer.closed.is_set()

    run(main)


def test_media_uses_the_ports_it_may() -> None:
    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            ports = {int(line.split()[5]) for line in peer.answer_sdp.split("\r\n") if line.startswith("a=candidate")}
            assert ports <= set(range(47_000, 47_005))
            await pace(peer, 3)
        async with player() as one, player() as two:
            with pytest.raises(NotReadyError, match="no UDP port from 47000"):
                for other in (one, two, one, two, one, two):
                    await host.answer(await other.offer(), size=(SIZE, SIZE))

    run(main, RtcSettings(loopback=True, port_range=(47_000, 47_004)))


def test_without_any_network_the_demo_still_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live.transport.rtc_net.local_addresses", list)

    async def main(host: RtcHost) -> None:
        async with connected(host) as (seen, peer):
            assert "127.0.0.1" in peer.answer_sdp
            await pace(peer, 3)

    run(main, RtcSettings())


def test_what_only_the_stack_refuses_is_bad_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(host: RtcHost) -> None:
        async with player() as seen:
            offer = await seen.offer()

            async def refuse(connection: RTCPeerConnection, description: Any) -> None:
                raise ValueError("what is this")

            monkeypatch.setattr(RTCPeerConnection, "setRemoteDescription", refuse)
            with pytest.raises(BadInputError, match="what is this"):
                await host.answer(offer, size=(SIZE, SIZE))
            monkeypatch.undo()
            assert not host.peers

    run(main)


def test_a_size_that_cannot_be_sent_is_said_before_there_is_an_answer() -> None:
    async def main(host: RtcHost) -> None:
        async with player() as seen:
            with pytest.raises(NotSupportedError, match="1920x1080"):
                await host.answer(await seen.offer(), size=(1080, 1920))
            assert not host.peers

    run(main)


def test_a_host_that_is_not_open_says_so() -> None:
    async def main() -> None:
        with pytest.raises(NotReadyError, match="context manager"):
            await RtcHost(SETTINGS).answer("", size=(SIZE, SIZE))

    asyncio.run(main())
