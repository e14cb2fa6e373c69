"""What is said about a network: from where browsers would connect, and why not from elsewhere."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from emo_live.cli import diagnosis
from emo_live.transport import rtc_check
from emo_live.transport.rtc_check import Finding, Probe, check_network, reach_of
from emo_live.transport.rtc_net import IceServer, RtcNet

STUN, TURN = "stun:stun.example.org", "turn:turn.example.org"
SERVERS = (IceServer((STUN,)), IceServer((TURN,), "user", "secret"))
SEEN, RELAYED, DEAF = Probe(STUN, ("198.51.100.7", 4), 12.0), Probe(TURN, ("198.51.100.9", 5), 30.0), "no answer"


@pytest.mark.parametrize(
    ("address", "reach"),
    [("192.168.1.7", "private"), ("10.0.0.1", "private"), ("172.17.0.1", "private"), ("100.64.0.9", "shared"),
     ("169.254.3.4", "link-local"), ("8.8.8.8", "public"), ("fd00::2", "private"), ("2600::1", "public")],
)  # fmt: skip
def test_from_where_an_address_can_be_used(address: str, reach: str) -> None:
    assert reach_of(address) == reach


def check(
    monkeypatch: pytest.MonkeyPatch,
    net: RtcNet,
    addresses: tuple[str, ...] = ("192.168.1.7",),
    stun: Probe = SEEN,
    turn: Probe = RELAYED,
    container: bool = False,
    listen: tuple[str, int] | None = None,
) -> dict[str, Finding]:
    async def ask_stun(url: str) -> Probe:
        return stun

    async def ask_turn(server: IceServer, url: str) -> Probe:
        return turn

    monkeypatch.setattr(rtc_check, "local_addresses", lambda: list(addresses))
    monkeypatch.setattr(rtc_check, "probe_stun", ask_stun)
    monkeypatch.setattr(rtc_check, "probe_turn", ask_turn)
    monkeypatch.setattr(rtc_check, "_in_container", lambda: container)
    monkeypatch.setattr(rtc_check, "_echo", lambda net, address: True)
    return {finding.name: finding for finding in asyncio.run(check_network(net, listen))}


@pytest.mark.parametrize(
    ("settings", "state", "because"),
    [
        ({"net": RtcNet()}, "optional", "within this network only"),
        ({"net": RtcNet(port_range=(47_100, 47_120))}, "optional", "UDP 47100 to 47120"),
        ({"net": RtcNet(), "addresses": ("8.8.8.8",)}, "ok", "firewalls"),
        ({"net": RtcNet(), "addresses": ()}, "optional", "no network"),
        ({"net": RtcNet(), "addresses": ("172.17.0.2",), "container": True}, "optional", "container"),
        ({"net": RtcNet(SERVERS[:1])}, "optional", "symmetric"),
        ({"net": RtcNet(SERVERS[:1]), "stun": Probe(STUN, error=DEAF)}, "optional", "within this network only"),
        ({"net": RtcNet(SERVERS)}, "ok", "from anywhere"),
        ({"net": RtcNet(SERVERS, relay_only=True)}, "ok", "from anywhere"),
        ({"net": RtcNet(SERVERS, relay_only=True), "turn": Probe(TURN, error=DEAF)}, "broken", "relay-only"),
        ({"net": RtcNet(), "listen": ("127.0.0.1", 0)}, "optional", "listens on 127.0.0.1"),
        ({"net": RtcNet(), "listen": ("localhost", 0)}, "optional", "listens on localhost"),
    ],
)
def test_browsers_elsewhere(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], state: str, because: str
) -> None:
    finding = check(monkeypatch, **settings)["browsers elsewhere"]  # type: ignore[arg-type]
    assert finding.state == state
    assert because in finding.detail
    assert finding.remedy is not None or state == "ok"


def test_servers_that_fail_are_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(monkeypatch, RtcNet(SERVERS), turn=Probe(TURN, error=DEAF))
    assert found[STUN].detail == "sees us as 198.51.100.7 in 12.0 ms: behind address translation"
    assert (found[TURN].state, found[TURN].detail) == ("optional", DEAF)
    assert found[TURN].remedy is not None


def test_ports_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.create_server(("127.0.0.1", 0)) as tcp:
        udp.bind(("0.0.0.0", 0))
        taken, port = udp.getsockname()[1], tcp.getsockname()[1]
        found = check(monkeypatch, RtcNet(port_range=(taken, taken)), listen=("127.0.0.1", port))
    assert (found["UDP ports"].state, found["UDP ports"].detail[:9]) == ("broken", "0 of 1 fr")
    assert found["HTTP port"].state == "optional"
    assert f"--port {port + 1}" in str(found["HTTP port"].remedy)


def test_this_machine_as_it_is() -> None:
    found = {finding.name: finding for finding in asyncio.run(check_network(RtcNet()))}
    assert found["UDP"].state == "ok"


def test_a_container_is_recognised(tmp_path: Path) -> None:
    assert not rtc_check._in_container(tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert rtc_check._in_container(tmp_path)


def test_doctor_looks_with_the_servers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_LIVE_UDP_PORTS", "[47200, 47219]")
    found = {check.name: check for check in diagnosis._live()}
    assert found["live encoders"].detail.startswith("h264, vp8")
    assert "47200" in found["live: UDP ports"].detail
    assert "broken" not in {check.state for check in found.values()}, "rendering files does not depend on it"


def test_doctor_says_which_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_LIVE_RELAY_ONLY", "true")
    (wrong,) = [check for check in diagnosis._live() if check.name == "settings"]
    assert (wrong.state, "TURN" in wrong.detail) == ("optional", True)


def test_doctor_says_nothing_about_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.importlib.util, "find_spec", lambda name: None)
    assert diagnosis._live() == []
