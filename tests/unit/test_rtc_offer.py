"""Offers are judged before the stack sees them; the answer has a place for everything that was offered."""

from __future__ import annotations

import pytest

from emo_live.errors import BadInputError, NotSupportedError
from emo_live.transport.rtc_offer import MAX_BYTES, read_offer
from emo_live.transport.sdpfrag import MAX_CANDIDATES

SESSION = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n"
COMMON = (
    "c=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n"
    "a=fingerprint:sha-256 3F:FD:CF\r\na=setup:actpass\r\n"
)
AUDIO = f"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n{COMMON}a=mid:0\r\na=recvonly\r\na=rtpmap:111 opus/48000/2\r\n"
H264 = "a=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1;profile-level-id=42e01f\r\n"
VP8 = "a=rtpmap:96 VP8/90000\r\n"
VIDEO = f"m=video 9 UDP/TLS/RTP/SAVPF 96 102\r\n{COMMON}a=mid:1\r\na=recvonly\r\n{VP8}{H264}"
DATA = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\na=sctp-port:5000\r\n"
CANDIDATE = "a=candidate:1 1 udp 1 192.0.2.7 9 typ host\r\n"
GOOD = SESSION + AUDIO + VIDEO


def test_an_ordinary_offer() -> None:
    offer = read_offer(GOOD)
    assert offer.codecs == {"h264", "vp8"}
    assert not offer.sends_audio
    assert offer.ufrag == "abcd"
    assert offer.refused == ()


def test_candidates_are_taken_out_and_kept() -> None:
    offer = read_offer(GOOD + CANDIDATE + "a=end-of-candidates\r\n")
    assert [candidate.address for candidate in offer.candidates] == ["192.0.2.7"]
    assert "candidate" not in offer.sdp.replace("end-of-candidates", "candidate")


def test_of_a_hundred_candidates_the_first_usable_ones_are_taken() -> None:
    others = (
        "a=candidate:1 1 tcp 1 192.0.2.7 9 typ host tcptype active\r\na=candidate:1 2 udp 1 192.0.2.7 9 typ host\r\n"
    )
    many = "".join(CANDIDATE.replace("192.0.2.7", f"192.0.2.{i}") + others for i in range(100))
    offer = read_offer(GOOD + many)
    assert [candidate.address for candidate in offer.candidates] == [f"192.0.2.{i}" for i in range(MAX_CANDIDATES)]


def test_a_bundle_only_section_has_what_the_first_of_its_bundle_says() -> None:
    """What browsers send with bundlePolicy max-bundle (RFC 8829, section 5.2.1)."""
    bare = VIDEO.replace(COMMON, "c=IN IP4 0.0.0.0\r\na=bundle-only\r\n").replace("m=video 9", "m=video 0")
    offer = read_offer(SESSION + AUDIO + bare)
    assert offer.kinds == ("audio", "video") and offer.refused == ()
    video = offer.sdp[offer.sdp.index("m=video") :]
    assert video.startswith("m=video 9 ")
    for line in COMMON.splitlines()[1:]:
        assert line in video.splitlines()
    with pytest.raises(BadInputError, match="no ice-ufrag"):
        read_offer(SESSION.replace("0 1", "7 1") + AUDIO + bare.replace("m=video 0", "m=video 9"))
    with pytest.raises(BadInputError, match="no video"):
        read_offer(SESSION.replace("BUNDLE 0 1", "BUNDLE 0") + AUDIO + bare)


@pytest.mark.parametrize("mid", ["video", "0.1-x", "{b7a5}", "~", "a" * 64])
def test_unusual_names_of_sections(mid: str) -> None:
    unusual = SESSION.replace("0 1", f"0 {mid}") + AUDIO + VIDEO.replace("a=mid:1", f"a=mid:{mid}")
    assert f"a=group:BUNDLE 0 {mid}\r\n" in read_offer(unusual).sdp


def test_a_microphone_is_noticed() -> None:
    assert read_offer(GOOD.replace("a=mid:0\r\na=recvonly", "a=mid:0\r\na=sendrecv")).sends_audio
    without_direction = read_offer(GOOD.replace("a=mid:0\r\na=recvonly", "a=mid:0"))
    assert without_direction.sends_audio, "sendrecv is what no direction means"
    assert "a=sendrecv" in without_direction.sdp


def test_credentials_may_stand_above_the_sections() -> None:
    shared = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 3F\r\na=setup:actpass\r\n"
    bare = "c=IN IP4 0.0.0.0\r\na=rtcp-mux\r\n"
    assert read_offer(SESSION + shared + (AUDIO + VIDEO).replace(COMMON, bare)).ufrag == "abcd"


def test_what_we_do_not_do_is_refused_in_its_place() -> None:
    second = VIDEO.replace("a=mid:1", "a=mid:3")
    offer = read_offer(SESSION.replace("0 1", "2 0 1 3") + DATA + AUDIO + VIDEO + second)
    assert "application" not in offer.sdp
    assert "a=group:BUNDLE 0 1\r\n" in offer.sdp
    answer = offer.finish(
        "v=0\r\ns=-\r\na=group:BUNDLE 0 1\r\nm=audio 9 X 111\r\na=mid:0\r\nm=video 9 X 102\r\na=mid:1\r\n"
    )
    media = [line for line in answer.split("\r\n") if line.startswith(("m=", "a=mid", "a=inactive"))]
    assert media == [
        "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
        "a=inactive",
        "a=mid:2",
        "m=audio 9 X 111",
        "a=mid:0",
        "m=video 9 X 102",
        "a=mid:1",
        "m=video 0 UDP/TLS/RTP/SAVPF 96 102",
        "a=inactive",
        "a=mid:3",
    ]


@pytest.mark.parametrize(
    ("offer", "complaint"),
    [
        ("", "v=0"),
        ("hello", "v=0"),
        ("<html></html>", "v=0"),
        ('{"type":"offer"}', "v=0"),
        (SESSION, "v=0"),
        (GOOD + "a=x\r\n" * MAX_BYTES, "bytes"),
        (SESSION + AUDIO * 17, "16 media sections"),
        (SESSION + "m=audio\r\n", "cannot be read"),
        (SESSION + AUDIO, "no video"),
        (SESSION + VIDEO, "no audio"),
        (SESSION + DATA, "no audio"),
        (SESSION + AUDIO + VIDEO.replace("m=video 9", "m=video 0"), "no video"),
        (SESSION + AUDIO + VIDEO.replace("recvonly", "sendonly"), "only sends video"),
        (SESSION + AUDIO.replace("recvonly", "sendonly") + VIDEO, "only sends audio"),
        (SESSION + AUDIO + VIDEO.replace("recvonly", "inactive"), "inactive"),
        (GOOD.replace("a=mid:1\r\n", ""), "no mid"),
        (GOOD.replace("a=mid:1", "a=mid:0"), "same mid"),
        (GOOD.replace("a=ice-ufrag:abcd\r\n", ""), "no ice-ufrag"),
        (GOOD.replace("a=ice-pwd:0123456789012345678901\r\n", ""), "no ice-pwd"),
        (GOOD.replace("a=ice-pwd:0", "a=ice-pwd:ä"), "unreadable ice-pwd"),
        (GOOD.replace("a=ice-ufrag:abcd", "a=ice-ufrag:abc"), "unreadable ice-ufrag"),
        (GOOD.replace("a=fingerprint:sha-256 3F:FD:CF\r\n", ""), "no fingerprint"),
        (GOOD.replace("a=setup:actpass\r\n", ""), "no setup"),
        (GOOD.replace("a=rtcp-mux\r\n", ""), "rtcp-mux"),
        (GOOD.replace("a=group:BUNDLE 0 1\r\n", ""), "max-bundle"),
        (GOOD.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0"), "max-bundle"),
        (GOOD + "a=candidate:nonsense\r\n", "no ICE candidate"),
        (GOOD.replace("a=mid:1", "a=mid:a/b"), "unreadable mid"),
        (GOOD.replace("a=mid:1", "a=mid:" + 65 * "a"), "unreadable mid"),
        (GOOD.replace("a=setup:actpass", "a=setup:maybe"), "cannot be read"),
        (GOOD.replace("a=rtpmap:96 VP8/90000", "a=rtpmap:96 VP8/fast"), "cannot be read"),
        (GOOD + "a=ssrc:1\r\n", "cannot be read"),
    ],
)
def test_what_cannot_be_meant(offer: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        read_offer(offer)


@pytest.mark.parametrize(
    ("offer", "complaint"),
    [
        (GOOD.replace("opus/48000/2", "PCMU/8000"), "Opus"),
        (GOOD.replace(VP8, "").replace(H264, "a=rtpmap:102 AV1/90000\r\n"), "neither"),
        (GOOD.replace(VP8, "").replace("42e01f", "64001f"), "neither"),
        (GOOD.replace(VP8, "").replace("packetization-mode=1;", ""), "neither"),
        (GOOD.replace(VP8, "").replace("42e01f", "xx"), "neither"),
    ],
)
def test_without_a_common_codec(offer: str, complaint: str) -> None:
    with pytest.raises(NotSupportedError, match=complaint):
        read_offer(offer)


def test_one_common_codec_is_enough() -> None:
    assert read_offer(GOOD.replace(H264, "")).codecs == {"vp8"}
    assert read_offer(GOOD.replace(VP8, "")).codecs == {"h264"}


def test_cut_off_anywhere_it_never_surprises() -> None:
    for length in range(0, len(GOOD), 7):
        try:
            read_offer(GOOD[:length])
        except (BadInputError, NotSupportedError):
            pass
