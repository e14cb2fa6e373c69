"""The body of trickle requests: RFC 8840's own example, what players really send, and what must be refused."""

from __future__ import annotations

import pytest

from emo_live.errors import BadInputError
from emo_live.transport.sdpfrag import MAX_BYTES, Fragment, IceCandidate, parse_candidate, parse_fragment

HOST = "1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1"


def test_the_example_of_the_standard() -> None:
    # RFC 8840, section 9, with the relayed candidate of RFC 8839.
    text = "\r\n".join(
        [
            "a=ice-ufrag:EsAw",
            "a=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y",
            "m=audio 9 UDP/TLS/RTP/SAVPF 0",
            "a=mid:0",
            f"a=candidate:{HOST}",
            "a=candidate:3471623853 1 udp 2122194687 198.51.100.2 61765 typ relay raddr 192.0.2.1 rport 61764",
            "a=end-of-candidates",
            "",
        ]
    )
    assert parse_fragment(text) == Fragment(
        ufrag="EsAw",
        password="bP+XJMM09aR8AiX1jdukzR6Y",
        candidates=(
            IceCandidate("1387637174", 1, "udp", 2122260223, "192.0.2.1", 61764, "host", mid="0", ufrag="EsAw"),
            IceCandidate(
                "3471623853", 1, "udp", 2122194687, "198.51.100.2", 61765, "relay", "192.0.2.1", 61764, mid="0"
            ),
        ),
        complete=True,
    )


def test_credentials_may_stand_in_every_section() -> None:
    section = "m=video 9 X 0\na=mid:{}\na=ice-ufrag:abcd\na=ice-pwd:0123456789012345678901\n"
    fragment = parse_fragment("a=group:BUNDLE 0 1\n" + section.format(0) + section.format(1))
    assert (fragment.ufrag, fragment.candidates, fragment.complete) == ("abcd", (), False)


@pytest.mark.parametrize("text", ["", "\r\n\n", "a=something-new:17\n", "m=audio 9 UDP/TLS/RTP/SAVPF 0\n"])
def test_nothing_to_say_is_fine(text: str) -> None:
    assert parse_fragment(text) == Fragment(None, None, (), False)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello", "begin with a= or m="),
        ("v=0\r\no=- 1 1 IN IP4 0.0.0.0", "begin with a= or m="),
        ("a=ice-ufrag:", "not readable"),
        ("a=ice-ufrag:a b", "not readable"),
        ("a=ice-ufrag:abcd\na=ice-ufrag:efgh", "two different"),
        ("a=candidate:", "no ICE candidate"),
        ("a=candidate:1 1 udp 1 192.0.2.1 9", "no ICE candidate"),
        ("a=candidate:1 1 udp 1 192.0.2.1 9 kind host", "no ICE candidate"),
        ("a=candidate:1 one udp 1 192.0.2.1 9 typ host", "number"),
        ("a=candidate:1 1 udp 99999999999 192.0.2.1 9 typ host", "number"),
        ("a=candidate:1 1 udp 1 192.0.2.1 65536 typ host", "number"),
        ("a=candidate:1 1 udp 1 192.0.2.1 -9 typ host", "number"),
        ("a=candidate:1 1 udp 1 192.0.2.1 ９ typ host", "number"),
        ("a=candidate:1 1 udp 1 $(reboot) 9 typ host", "address"),
        (f"a=candidate:{HOST}\n" * 65, "64 candidates"),
        ("a=x\n" * MAX_BYTES, "bytes"),
    ],
)
def test_what_is_broken_is_said(text: str, complaint: str) -> None:
    with pytest.raises(BadInputError, match=complaint):
        parse_fragment(text)


@pytest.mark.parametrize(
    ("value", "usable"),
    [
        (HOST, True),
        ("1 1 UDP 1 2001:db8::1 9 typ host", True),
        ("1 1 udp 1 99ea1cdc-bcab-459a-a878-879b82b23f9d.local 38930 typ host", True),
        ("1 1 udp 1 192.0.2.1 9 typ srflx raddr 0.0.0.0 rport 0", True),
        ("1 1 tcp 1 192.0.2.1 9 typ host tcptype active", False),
        ("1 2 udp 1 192.0.2.1 9 typ host", False),
        ("1 1 udp 1 192.0.2.1 9 typ teleport", False),
        ("1 1 udp 1 192.0.2.1 0 typ host", False),
    ],
)
def test_which_candidates_can_be_tried(value: str, usable: bool) -> None:
    assert parse_candidate(value).usable is usable
