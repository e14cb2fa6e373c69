"""Through a TURN server, and what `emo-live doctor` says about such servers."""

from __future__ import annotations

import asyncio

import pytest
from aiortc import RTCIceServer

from emo_live.errors import NotReadyError
from emo_live.transport import rtc_check
from emo_live.transport.rtc_check import probe_stun, probe_turn
from emo_live.transport.rtc_net import IceServer, RtcNet
from emo_live.transport.webrtc import RtcHost, RtcSettings
from tests.interop.aiortc_player import SIZE, connected, pace, player
from tests.interop.relay import PASSWORD, USER, relay


def test_media_goes_through_the_relay_and_nowhere_else() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), relay() as server:
            url = f"turn:127.0.0.1:{server.port}"
            settings = RtcSettings((IceServer((url,), USER, PASSWORD),), relay_only=True)
            async with RtcHost(settings) as host:
                async with connected(host) as (seen, peer):
                    types = {line.split()[7] for line in peer.answer_sdp.splitlines() if line.startswith("a=candidate")}
                    assert types == {"relay"}
                    assert "raddr 0.0.0.0" in peer.answer_sdp, "our own address is not told"
                    assert len(server.allocations) == 1
                    before = server.relayed
                    await pace(peer, 10)
                    assert server.relayed - before > 20
                    assert len(seen.frames["video"]) > 5
                await peer.close()
                await asyncio.sleep(0.1)
                assert not server.allocations, "the relay is given back"

    asyncio.run(main())


def test_both_sides_may_be_behind_the_relay() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), relay() as server:
            url = f"turn:127.0.0.1:{server.port}"
            ours = RtcSettings((IceServer((url,), USER, PASSWORD),), relay_only=True)
            theirs = RtcNet((IceServer((url,), USER, PASSWORD),), relay_only=True)
            async with RtcHost(ours) as host:
                servers = [RTCIceServer([url], USER, PASSWORD)]
                async with connected(host, net=theirs, ice_servers=servers) as (seen, peer):
                    await pace(peer, 5)

    asyncio.run(main())


@pytest.mark.parametrize("credential", [PASSWORD + "?", PASSWORD])
def test_without_a_relay_the_answer_says_so(credential: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), relay() as server:
            if credential == PASSWORD:
                server.datagram_received = lambda data, addr: None  # type: ignore[method-assign]  # deaf
            settings = RtcSettings((IceServer((f"turn:127.0.0.1:{server.port}",), USER, credential),), relay_only=True)
            async with RtcHost(settings) as host, player() as seen:
                with pytest.raises(NotReadyError, match="doctor"):
                    await host.answer(await seen.offer(), size=(SIZE, SIZE))
                assert not host.peers

    asyncio.run(main())


def test_a_deaf_stun_server_delays_the_answer_by_a_second_at_most() -> None:
    async def main() -> None:
        async with relay() as server:
            server.datagram_received = lambda data, addr: None  # type: ignore[method-assign]
            settings = RtcSettings((IceServer((f"stun:127.0.0.1:{server.port}",)),), loopback=True)
            async with RtcHost(settings) as host, player() as seen:
                async with asyncio.timeout(2.5):
                    peer = await host.answer(await seen.offer(), size=(SIZE, SIZE))
                assert "typ host" in peer.answer_sdp

    asyncio.run(main())


def test_probing_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc_check, "PROBE_S", 0.3)

    async def main() -> None:
        async with relay() as server:
            stun, turn = f"stun:127.0.0.1:{server.port}", f"turn:127.0.0.1:{server.port}"
            seen = await probe_stun(stun)
            assert seen.seen is not None
            assert seen.seen[0] == "127.0.0.1"
            assert seen.error is None
            relayed = await probe_turn(IceServer((turn,), USER, PASSWORD), turn)
            assert relayed.seen is not None
            assert relayed.rtt_ms is not None
            assert not server.allocations
            wrong = await probe_turn(IceServer((turn,), USER, "wrong"), turn)
            assert wrong.error == "it refuses the username or the credential"
            server.datagram_received = lambda data, addr: None  # type: ignore[method-assign]
            assert "no answer" in str((await probe_stun(stun)).error)
            assert "no answer" in str((await probe_turn(IceServer((turn,), USER, PASSWORD), turn)).error)
        assert (await probe_stun("stun:no-such-host.invalid")).error is not None

    asyncio.run(main())
