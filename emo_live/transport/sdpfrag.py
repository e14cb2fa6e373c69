"""Reads the body of a trickle request: application/trickle-ice-sdpfrag (RFC 8840), and the ICE candidates in it.

Sans-I/O and free of any WebRTC stack: text in, frozen data out. What is malformed is a BadInputError; what is merely
unknown (attributes, candidate types, transports) is kept or skipped, as RFC 8840, section 8 and RFC 8839 ask.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from emo_live.errors import BadInputError

MAX_BYTES = 16_000
MAX_CANDIDATES = 64

_TOKEN = re.compile(r"[A-Za-z0-9+/]{1,256}")  # ice-char, RFC 8839, section 5.4; lengths are the other side's business
_FOUNDATION = re.compile(r"[A-Za-z0-9+/]{1,32}")
_ADDRESS = re.compile(r"[A-Za-z0-9.:%_-]{1,253}")


@dataclass(frozen=True, slots=True)
class IceCandidate:
    """One way to reach the other side (RFC 8839, section 5.1).

    address: an IP address, or an mDNS name that hides one. kind: host, srflx, prflx, relay, or one we do not know.
    mid: the media section it was named under, None outside of one. ufrag: of the session that it belongs to, if said.
    """

    foundation: str
    component: int
    transport: str
    priority: int
    address: str
    port: int
    kind: str
    related_address: str | None = None
    related_port: int | None = None
    mid: str | None = None
    ufrag: str | None = None

    @property
    def usable(self) -> bool:
        """Whether we can try it: UDP, RTP and RTCP on one port."""
        known = self.kind in ("host", "srflx", "prflx", "relay")
        return known and self.transport == "udp" and self.component == 1 and self.port > 0


@dataclass(frozen=True, slots=True)
class Fragment:
    """ufrag, password: credentials that the candidates belong to, None if not said. complete: no more will come."""

    ufrag: str | None
    password: str | None
    candidates: tuple[IceCandidate, ...]
    complete: bool


def parse_fragment(text: str) -> Fragment:
    """BadInputError says which line is wrong."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise BadInputError(f"a trickle fragment may have {MAX_BYTES} bytes")
    ufrag = password = mid = None
    complete, candidates = False, list[IceCandidate]()
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("m="):
            mid = None
            continue
        if not line.startswith("a="):
            raise BadInputError(f"a trickle fragment has lines that begin with a= or m=, not {line[:20]!r}")
        name, _, value = line[2:].partition(":")
        if name == "candidate":
            candidates.append(parse_candidate(value, mid))
        elif name == "mid":
            mid = value
        elif name == "ice-ufrag":
            ufrag = _same(ufrag, value, "ice-ufrag")
        elif name == "ice-pwd":
            password = _same(password, value, "ice-pwd")
        elif name == "end-of-candidates":
            complete = True
    if len(candidates) > MAX_CANDIDATES:
        raise BadInputError(f"a trickle fragment may have {MAX_CANDIDATES} candidates")
    return Fragment(ufrag, password, tuple(candidates), complete)


def parse_candidate(value: str, mid: str | None = None) -> IceCandidate:
    """value: what follows "candidate:" in an attribute."""
    words = value.split()
    if len(words) < 8 or words[6] != "typ":
        raise BadInputError(f"this is no ICE candidate: {value[:80]!r}")
    extensions = dict(zip(words[8::2], words[9::2], strict=False))
    foundation, component, transport, priority, address, port, _, kind = words[:8]
    if not _FOUNDATION.fullmatch(foundation) or not _ADDRESS.fullmatch(address):
        raise BadInputError(f"an ICE candidate has an unreadable foundation or address: {value[:80]!r}")
    related_port = extensions.get("rport")
    return IceCandidate(
        foundation=foundation,
        component=_number(component, 256, value),
        transport=transport.lower(),
        priority=_number(priority, 2**31 - 1, value),
        address=address,
        port=_number(port, 65_535, value),
        kind=kind,
        related_address=extensions.get("raddr"),
        related_port=None if related_port is None else _number(related_port, 65_535, value),
        mid=mid,
        ufrag=extensions.get("ufrag"),
    )


def _number(text: str, limit: int, value: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= limit):
        raise BadInputError(f"an ICE candidate has a number that cannot be: {value[:80]!r}")
    return int(text)


def _same(before: str | None, value: str, name: str) -> str:
    """One bundle has one set of credentials, even if every media section repeats it."""
    if not _TOKEN.fullmatch(value):
        raise BadInputError(f"{name} is not readable")
    if before not in (None, value):
        raise BadInputError(f"a trickle fragment names two different {name}")
    return value
