"""One WebRTC connection: a sink that encodes pairs and sends them, and the microphone that may come back.

A pair's picture and its sound are encoded in one job and leave together; the second 20 ms of sound follow 20 ms later,
at the pace that jitter buffers are made for. Timestamps and sender reports, which give media time on one clock, tell
what belongs together. What a peer is too slow for is dropped by whole pairs; its sound has silence in their place, so
timestamps of sound never jump. Runs on the media loop, encodes on its host's threads.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCIceCandidate,
    RTCIceTransport,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.stats import RTCOutboundRtpStreamStats, RTCRemoteInboundRtpStreamStats

from emo_live.errors import NotReadyError, NotSupportedError
from emo_live.transport import rtc_internals
from emo_live.transport.rtc_codecs import PACKET_S, VIDEO_CLOCK_HZ, CodecName, EncodedPair, PairEncoder
from emo_live.transport.rtc_names import address_of, hides_address
from emo_live.transport.rtc_net import RtcNet
from emo_live.transport.rtc_offer import Offer
from emo_live.transport.rtc_rate import RateControl
from emo_live.transport.rtc_tracks import Microphone, PacketTrack
from emo_live.transport.sdpfrag import MAX_CANDIDATES, IceCandidate, parse_fragment
from emo_live.types import OUTPUT_RATE_HZ, AudioChunk, AVPair

CONNECT_S, CLOSE_S, WATCH_S = 30.0, 5.0, 1.0
SILENCE_S = 15.0  # receivers report at least every few seconds (RFC 3550, section 6.2); ICE takes 30 s to notice
QUEUE = 3  # pairs: a picture that is 120 ms late is of no use
KEYFRAME_STEPS = 8  # between two keyframes that are asked for, at least; libwebrtc too waits 300 ms
MAX_GAP = 25  # steps that are filled with silence; a wider hole means another stream
_PREFERENCES = {"h264": ("video/H264", "video/rtx"), "vp8": ("video/VP8", "video/rtx"), "opus": ("audio/opus",)}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RtcStats:
    """What a connection does; figures of the last second where they are not counts.

    loss: share of packets that the client missed, of its newest report. encode_ms: median and 95th percentile of the
    last 100 pairs, on the clock. None: not known yet.
    """

    connected: bool
    codec: str
    encoder: str | None
    target_bitrate_bps: int
    sent_bps: int
    packets_sent: int
    packets_lost: int
    loss: float
    rtt_ms: float | None
    pairs_sent: int
    pairs_dropped: int
    keyframes: int
    encode_p50_ms: float | None
    encode_p95_ms: float | None
    microphone_chunks: int
    microphone_dropped: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class RtcPeer:
    """Made by RtcHost.answer. connected: media flows. closed: it never will again; `reason` says why.

    etag: of the ICE session, without quotes. close() frees everything; a peer that ends by itself has done that too.
    """

    def __init__(
        self,
        connection: RTCPeerConnection,
        offer: Offer,
        codec: CodecName,
        size: tuple[int, int],
        *,
        max_bitrate_bps: int,
        workers: ThreadPoolExecutor,
        gone: Callable[[RtcPeer], None],
    ) -> None:
        self.answer_sdp, self.etag, self.reason = "", secrets.token_urlsafe(12), ""
        self.connected, self.closed = asyncio.Event(), asyncio.Event()
        self._connection, self._offer, self._codec, self._size = connection, offer, codec, size
        self._max_bitrate_bps, self._workers, self._gone = max_bitrate_bps, workers, gone
        self._audio, self._video = PacketTrack("audio"), PacketTrack("video")
        self._microphone = Microphone()
        self._rate = RateControl(max_bitrate_bps)
        self._encoder: PairEncoder | None = None
        self._queue: deque[AVPair] = deque()
        self._queued = asyncio.Event()
        self._position, self._index = -1, 0  # of the newest pair that was sent
        self._keyframe_wanted, self._keyframe_at = True, -KEYFRAME_STEPS
        self._candidates, self._looks_up_names = 0, True
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._sent = self._dropped = self._keyframes = 0
        self._encode_s: deque[float] = deque(maxlen=100)
        self._figures = _Figures()

    # the sink

    def offer(self, pair: AVPair) -> None:
        if self.closed.is_set() or not self.connected.is_set():
            return
        if len(self._queue) == QUEUE:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(pair)
        self._queued.set()

    async def close(self) -> None:
        self._end("closed")
        assert self._closing is not None, "ending starts the closing"
        await asyncio.shield(self._closing)

    # the connection

    async def negotiate(self, net: RtcNet, *, receive_audio: bool) -> None:
        """Make the answer and start. Whoever calls it closes the peer if it fails."""
        connection, loop = self._connection, asyncio.get_running_loop()
        opening = functools.partial(PairEncoder, self._codec, self._size, self._rate.target_bps, self._max_bitrate_bps)
        self._encoder = await loop.run_in_executor(self._workers, opening)
        tracks = {"audio": self._audio, "video": self._video}
        # In the offer's order: aiortc would stop a bundle's transport if its first track were not the offer's first.
        senders = {kind: connection.addTrack(tracks[kind]) for kind in self._offer.kinds}
        for transceiver in connection.getTransceivers():
            # Before setRemoteDescription: aiortc ignores what is said later.
            wanted = _PREFERENCES[self._codec if transceiver.kind == "video" else "opus"]
            offered = RTCRtpSender.getCapabilities(transceiver.kind).codecs
            transceiver.setCodecPreferences([codec for codec in offered if codec.mimeType in wanted])
            transceiver.direction = "sendrecv" if receive_audio and transceiver.kind == "audio" else "sendonly"
        estimates = self._rate.receiver_estimates
        rtc_internals.send_audio_packets(senders["audio"])
        rtc_internals.send_video_packets(senders["video"], self._codec, self._need_keyframe, estimates)
        media = rtc_internals.MediaTime()
        rtc_internals.report_media_time(senders["audio"], media, OUTPUT_RATE_HZ)
        rtc_internals.report_media_time(senders["video"], media, VIDEO_CLOCK_HZ)
        rtc_internals.gather_within(self._transport, net)
        connection.on("connectionstatechange", self._state_changed)
        if receive_audio and self._offer.sends_audio:
            connection.on("track", self._heard)
        else:
            self._microphone.end()
        await connection.setRemoteDescription(RTCSessionDescription(self._offer.sdp, "offer"))
        await connection.setLocalDescription()
        if not self._transport.iceGatherer.getLocalCandidates():
            what = "no TURN server gave a relay address" if net.relay_only else "no network address can be used"
            raise NotReadyError(f"{what}: emo-live doctor tells why")
        self.answer_sdp = self._offer.finish(connection.localDescription.sdp)
        self._looks_up_names = not net.relay_only  # a relay cannot reach them (the draft, section 3.2)
        await self._add(self._offer.candidates)
        self._spawn(self._send(), "send")
        self._spawn(self._watch(), "watch")

    async def add_candidates(self, sdpfrag: str) -> None:
        """Late ways to reach the client. BadInputError if unreadable; NotSupportedError for an ICE restart."""
        fragment = parse_fragment(sdpfrag)
        if fragment.ufrag not in (None, self._offer.ufrag):
            raise NotSupportedError("ICE restarts are not supported: make a new connection")
        if not self.closed.is_set():
            await self._add(fragment.candidates)

    async def _add(self, candidates: Iterable[IceCandidate]) -> None:
        """What cannot be used is ignored (RFC 8838, section 9). The end of candidates is never told to aioice:
        it would give up at once where all of them are names that it cannot resolve, though the client's own checks
        are on their way and show its address."""
        for candidate in candidates:
            theirs = candidate.ufrag in (None, self._offer.ufrag)
            if not candidate.usable or not theirs or self._candidates >= MAX_CANDIDATES:
                continue
            self._candidates += 1
            if not hides_address(candidate.address):
                await self._try(candidate)
            elif self._looks_up_names:
                self._spawn(self._look_up(candidate), "look-up")

    async def _try(self, candidate: IceCandidate) -> None:
        await self._transport.addRemoteCandidate(_for_aiortc(candidate))

    async def _look_up(self, candidate: IceCandidate) -> None:
        """Takes a second where nobody answers, so the answer does not wait for it."""
        if (address := await address_of(candidate.address)) is not None:
            await self._try(replace(candidate, address=address))

    def microphone(self) -> AsyncIterator[AudioChunk]:
        """What the client says, 48 kHz; ends with the connection, or at once where none was agreed on."""
        return self._microphone.chunks()

    def stats(self) -> RtcStats:
        figures, encode_ms = self._figures, [s * 1000 for s in self._encode_s]
        p50, p95 = (round(float(np.percentile(encode_ms, q)), 2) if encode_ms else None for q in (50, 95))
        return RtcStats(
            connected=self.connected.is_set() and not self.closed.is_set(),
            codec=self._codec,
            encoder=None if self._encoder is None else self._encoder.video.name,
            target_bitrate_bps=self._rate.target_bps,
            sent_bps=figures.sent_bps,
            packets_sent=figures.packets_sent,
            packets_lost=figures.packets_lost,
            loss=figures.loss,
            rtt_ms=figures.rtt_ms,
            pairs_sent=self._sent,
            pairs_dropped=self._dropped,
            keyframes=self._keyframes,
            encode_p50_ms=p50,
            encode_p95_ms=p95,
            microphone_chunks=self._microphone.received,
            microphone_dropped=self._microphone.dropped,
        )

    # tasks

    async def _send(self) -> None:
        assert self._encoder is not None, "it is opened before there is an answer"
        encoder, loop = self._encoder, asyncio.get_running_loop()
        await asyncio.gather(self._audio.wanted.wait(), self._video.wanted.wait())  # the watch limits how long
        self.connected.set()
        while True:
            pair = await self._next()
            gap = self._gap_before(pair)
            self._position, self._index = self._position + gap + 1, pair.index
            keyframe = self._keyframe_due()
            encoder.video.follow(self._rate.target_bps)
            job = functools.partial(encoder.encode, pair.video, pair.audio, self._position, gap=gap, keyframe=keyframe)
            self._hand_over(await loop.run_in_executor(self._workers, job), loop.time())

    async def _next(self) -> AVPair:
        while not self._queue:
            self._queued.clear()
            await self._queued.wait()
        return self._queue.popleft()

    def _keyframe_due(self) -> bool:
        """Asking for keyframes all the time must not get them: they cost ten times an ordinary picture."""
        due = self._keyframe_wanted and self._position - self._keyframe_at >= KEYFRAME_STEPS
        if due:
            self._keyframe_wanted, self._keyframe_at = False, self._position
        return due

    def _gap_before(self, pair: AVPair) -> int:
        """Steps that are missing before a pair: dropped here, or never given."""
        missing = pair.index - self._index - 1
        return missing if self._position >= 0 and 0 <= missing <= MAX_GAP else 0

    def _hand_over(self, encoded: EncodedPair, now: float) -> None:
        *first, last = encoded.audio
        for packet in first:
            self._audio.put(packet)
        self._video.put(encoded.video)
        self._audio.put(last, not_before=now + PACKET_S)
        self._sent += 1
        self._keyframes += encoded.keyframe
        self._encode_s.append(encoded.wall_s)

    async def _watch(self) -> None:
        """Notices clients that never come, or that vanish without a word."""
        started = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            if not self.connected.is_set():
                if time.monotonic() - started > CONNECT_S:
                    self._end("the client did not connect")
                continue
            if self._figures.update(await self._connection.getStats(), time.monotonic()):
                self._rate.receiver_lost(self._figures.loss)
            if self._figures.silent_s(time.monotonic()) > SILENCE_S:
                self._end("the client vanished")

    @property
    def _transport(self) -> RTCIceTransport:
        """The one that audio and video share."""
        return self._connection.getTransceivers()[0].receiver.transport.transport

    # callbacks

    def _need_keyframe(self) -> None:
        self._keyframe_wanted = True

    def _heard(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._spawn(self._microphone.drain(track), "microphone")

    def _state_changed(self) -> None:
        state = self._connection.connectionState
        if state == "failed":
            self._end("the network path failed" if self.connected.is_set() else "no network path to the client")
        elif state == "closed":
            self._end("the client left")

    # the end

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"emo-live-rtc-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a WebRTC connection broke", exc_info=error)
            self._end(f"{type(error).__name__}: {error}")

    def _end(self, reason: str) -> None:
        if self._closing is None:
            self.reason = reason
            self.closed.set()
            self._closing = asyncio.create_task(self._close(), name="emo-live-rtc-close")

    async def _close(self) -> None:
        self._microphone.end()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._audio.stop()
        self._video.stop()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close()
        except TimeoutError:
            _log.warning("a WebRTC connection did not close in time")
        except Exception:  # aiortc closing half-open transports; what we own is freed all the same
            _log.exception("a WebRTC connection did not close cleanly")
        finally:
            self._queue.clear()
            self._gone(self)


@dataclass(slots=True)
class _Figures:
    """What the newest reports of aiortc and of the client say; times are monotonic seconds."""

    packets_sent: int = 0
    packets_lost: int = 0
    bytes_sent: int = 0
    sent_bps: int = 0
    loss: float = 0.0
    rtt_ms: float | None = None
    reported_at: float | None = None
    updated_at: float | None = None
    _newest: Any = None

    def update(self, report: dict[str, Any], now: float) -> bool:
        """Whether the client has reported something new on the video."""
        sent = [entry for entry in report.values() if isinstance(entry, RTCOutboundRtpStreamStats)]
        seen = [entry for entry in report.values() if isinstance(entry, RTCRemoteInboundRtpStreamStats)]
        total = sum(entry.bytesSent for entry in sent)
        if self.updated_at is not None and now > self.updated_at:
            self.sent_bps = round((total - self.bytes_sent) * 8 / (now - self.updated_at))
        self.bytes_sent, self.updated_at = total, now
        self.packets_sent = sum(entry.packetsSent for entry in sent)
        self.packets_lost = sum(entry.packetsLost for entry in seen)
        if seen and (newest := max(entry.timestamp for entry in seen)) != self._newest:
            self._newest, self.reported_at = newest, now
            video = [entry for entry in seen if entry.kind == "video"]
            self.loss = max((entry.fractionLost / 256 for entry in video), default=0.0)
            trips = [entry.roundTripTime for entry in seen if entry.roundTripTime is not None]
            self.rtt_ms = round(min(trips) * 1000, 1) if trips else None
            return bool(video)
        return False

    def silent_s(self, now: float) -> float:
        """Since the client's newest report; 0 for one that has never reported, whom ICE watches."""
        return 0.0 if self.reported_at is None else now - self.reported_at


def _for_aiortc(candidate: IceCandidate) -> RTCIceCandidate:
    return RTCIceCandidate(
        component=candidate.component,
        foundation=candidate.foundation,
        ip=candidate.address,
        port=candidate.port,
        priority=candidate.priority,
        protocol=candidate.transport,
        type=candidate.kind,
        relatedAddress=candidate.related_address,
        relatedPort=candidate.related_port,
    )
