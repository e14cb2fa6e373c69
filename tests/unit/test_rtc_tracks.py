"""Packets leave in order and when they are due; a microphone that nobody listens to does not fill the memory."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import AudioStreamTrack
from aiortc.mediastreams import MediaStreamError

from emo_live.transport.rtc_tracks import Microphone, PacketTrack
from tests import virtual_time


def packet(pts: int) -> av.Packet:  # type: ignore[type-arg]
    made = av.Packet(b"x")
    made.pts, made.time_base = pts, Fraction(1, 48_000)
    return made


def test_a_held_packet_waits_for_its_time_or_for_the_next_one() -> None:
    async def main() -> None:
        track, loop = PacketTrack("audio"), asyncio.get_running_loop()
        start = loop.time()
        track.put(packet(0))
        track.put(packet(1), not_before=start + 0.02)
        assert (await track.recv()).pts == 0
        assert loop.time() == start
        assert (await track.recv()).pts == 1
        assert loop.time() == pytest.approx(start + 0.02)
        track.put(packet(2), not_before=loop.time() + 5)
        receiving = asyncio.ensure_future(track.recv())
        await asyncio.sleep(1)
        assert not receiving.done()
        track.put(packet(3), not_before=loop.time() + 5)
        assert (await receiving).pts == 2, "what comes next makes it late enough"
        assert loop.time() == pytest.approx(start + 1.02)

    virtual_time.run(main())


def test_wanted_says_that_the_sender_runs_and_stopping_ends_it() -> None:
    async def main() -> None:
        track = PacketTrack("video")
        assert not track.wanted.is_set()
        receiving = asyncio.ensure_future(track.recv())
        await track.wanted.wait()
        track.stop()
        with pytest.raises(MediaStreamError):
            await receiving
        with pytest.raises(MediaStreamError):
            await track.recv()

    virtual_time.run(main())


def test_a_dead_sender_is_noticed() -> None:
    async def main() -> None:
        track = PacketTrack("audio")
        with pytest.raises(MediaStreamError, match="nobody takes audio"):
            for pts in range(1000):
                track.put(packet(pts))

    virtual_time.run(main())


class Tone(AudioStreamTrack):
    """Stereo frames of 20 ms whose sides differ; `count` of them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    async def recv(self) -> av.AudioFrame:
        if not self.left:
            raise MediaStreamError
        self.left -= 1
        both = np.tile(np.array([16384, 0], np.int16), 960)[None]
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, self.left
        return frame


def test_the_newest_sound_waits_for_whoever_listens() -> None:
    async def main() -> None:
        microphone = Microphone(limit=5)
        await microphone.drain(Tone(12))
        microphone.end()
        chunks = [chunk async for chunk in microphone.chunks()]
        assert (microphone.received, microphone.dropped, len(chunks)) == (12, 7, 5)
        assert chunks[0].rate_hz == 48_000
        assert chunks[0].pcm.dtype == np.float32
        np.testing.assert_allclose(chunks[0].pcm, np.full(960, 0.25))

    virtual_time.run(main())


def test_listening_ends_with_the_connection() -> None:
    async def main() -> None:
        microphone = Microphone()
        loop = asyncio.get_running_loop()
        loop.call_later(3, microphone.end)
        assert [chunk async for chunk in microphone.chunks()] == []

    virtual_time.run(main())
