"""Addresses, ports and servers: what becomes a candidate, and which settings cannot work."""

from __future__ import annotations

import socket

import pytest

from emo_live.errors import BadInputError, NotReadyError
from emo_live.transport import rtc_net
from emo_live.transport.rtc_net import IceServer, RtcNet, ServerUrl, local_addresses, parse_url

TURN = IceServer(("turn:turn.example.org",), "user", "secret")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("stun:example.org", ServerUrl("stun", "example.org", 3478, "udp", False)),
        ("stun:192.0.2.1:19302", ServerUrl("stun", "192.0.2.1", 19302, "udp", False)),
        ("turn:example.org?transport=tcp", ServerUrl("turn", "example.org", 3478, "tcp", False)),
        ("turns:example.org:443?transport=tcp", ServerUrl("turns", "example.org", 443, "tcp", True)),
        ("turns:example.org", ServerUrl("turns", "example.org", 5349, "tcp", True)),
        ("turn:[2001:db8::1]", ServerUrl("turn", "2001:db8::1", 3478, "udp", False)),
        ("turn:[2001:db8::1]:80", ServerUrl("turn", "2001:db8::1", 80, "udp", False)),
    ],
)
def test_addresses_of_servers(url: str, parts: ServerUrl) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize(
    "url",
    ["", "example.org", "http://example.org", "stun:", "stun:example.org:0", "stun:example.org:seven",
     "stun:example.org?transport=udp", "turn:example.org?transport=pigeon"],
)  # fmt: skip
def test_what_is_no_address_of_a_server(url: str) -> None:
    with pytest.raises(BadInputError, match="no address like"):
        IceServer((url,), "user", "secret")


def test_a_relay_needs_credentials_and_keeps_them_to_itself() -> None:
    with pytest.raises(BadInputError, match="credential"):
        IceServer(("turn:turn.example.org",))
    assert "secret" not in repr(TURN)


def test_settings_that_cannot_work() -> None:
    with pytest.raises(BadInputError, match="TURN"):
        RtcNet((IceServer(("stun:example.org",)),), relay_only=True)
    for ports in ((0, 10), (5000, 4000), (60_000, 70_000)):
        with pytest.raises(BadInputError, match="port_range"):
            RtcNet(port_range=ports)


def test_loopback_is_a_candidate_only_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc_net, "local_addresses", lambda: ["192.0.2.2"])
    assert RtcNet().addresses() == ["192.0.2.2"]
    assert RtcNet(loopback=True).addresses() == ["192.0.2.2", "127.0.0.1"]
    monkeypatch.setattr(rtc_net, "local_addresses", list)
    assert RtcNet().addresses() == ["127.0.0.1"]
    assert RtcNet(loopback=False).addresses() == []
    assert RtcNet((TURN,), relay_only=True).addresses() == []


def test_local_addresses_are_not_loopback() -> None:
    assert "127.0.0.1" not in local_addresses()


def test_ports_come_from_the_range_until_none_is_left() -> None:
    first = free_ports(3)
    net = RtcNet(port_range=(first, first + 2))
    bound = [net.socket("127.0.0.1") for _ in range(3)]
    try:
        assert sorted(one.getsockname()[1] for one in bound) == [first, first + 1, first + 2]
        with pytest.raises(NotReadyError, match="no UDP port"):
            net.socket("127.0.0.1")
    finally:
        for one in bound:
            one.close()
    net.socket("127.0.0.1").close()


def test_an_address_that_is_not_ours_is_the_systems_complaint() -> None:
    with pytest.raises(OSError):
        RtcNet().socket("192.0.2.200")


def free_ports(count: int) -> int:
    """The first of so many UDP ports in a row that nobody has now."""
    for first in range(42_000, 60_000, count):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports")
