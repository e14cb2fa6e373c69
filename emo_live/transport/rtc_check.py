"""Finds out whether WebRTC works here, and for whom: what `emo-live doctor` says about the network.

Every check answers within seconds, none raises. What it cannot see from here are firewalls between this machine and
others; it says so where they matter.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emo_live.errors import NotReadyError
from emo_live.transport.rtc_net import LOOPBACK, IceServer, RtcNet, ServerUrl, local_addresses, parse_url

State = Literal["ok", "optional", "broken"]
Reach = Literal["public", "shared", "private", "link-local"]

PROBE_S = 3.0
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: behind a provider's own translation
_NO_NETWORK = (
    "connect to any network, even one without internet: browsers look for no path without one, "
    "except Chromium started with --allow-loopback-in-peer-connection, once the microphone is allowed"
)
_TURN = "give a TURN server in ice_servers (coturn is one)"


@dataclass(frozen=True, slots=True)
class Finding:
    """optional: live sessions work for some. broken: for nobody. remedy: what to do, if anything."""

    name: str
    state: State
    detail: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What a STUN or TURN server said. seen: the address it knows us by, or relays for us; error: why there is none."""

    url: str
    seen: tuple[str, int] | None = None
    rtt_ms: float | None = None
    error: str | None = None


async def check_network(net: RtcNet, listen: tuple[str, int] | None = None) -> list[Finding]:
    """listen: address and port of the HTTP server, if it is to be checked."""
    addresses = local_addresses()
    stun = [url for server in net.ice_servers for url in server.urls if url.startswith("stun")]
    turn = [(server, url) for server in net.ice_servers for url in server.urls if url.startswith("turn")]
    probes = await asyncio.gather(*map(probe_stun, stun), *(probe_turn(server, url) for server, url in turn))
    reflected, relayed = list(probes[: len(stun)]), list(probes[len(stun) :])
    findings = [await _udp(net, addresses), _addresses(addresses)]
    if net.port_range is not None:
        findings.append(_ports(net, net.port_range))
    findings += [_stun_finding(probe, addresses) for probe in reflected]
    findings += [_turn_finding(probe, net.relay_only) for probe in relayed]
    if listen is not None:
        findings.append(_http(*listen))
    findings.append(_elsewhere(net, addresses, reflected, relayed, listen))
    return findings


def reach_of(address: str) -> Reach:
    """From where an address can be used at all."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_link_local:
        return "link-local"
    if parsed.version == 4 and parsed in _SHARED:
        return "shared"
    return "public" if parsed.is_global else "private"


async def probe_stun(url: str) -> Probe:
    """Ask a STUN server how it sees us (RFC 8489)."""
    from aioice import stun

    class Asking(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            if not answered.done():
                answered.set_result(data)

        def error_received(self, error: Exception) -> None:
            if not answered.done():
                answered.set_exception(error)

    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    transport: asyncio.DatagramTransport | None = None
    try:
        async with asyncio.timeout(PROBE_S):
            server = await _resolve(parse_url(url))
            transport, _ = await loop.create_datagram_endpoint(Asking, remote_addr=server)
            while not answered.done():
                started = time.monotonic()
                transport.sendto(bytes(request))
                await asyncio.wait([answered], timeout=0.5)
            data = answered.result()
        seen = stun.parse_message(data).attributes["XOR-MAPPED-ADDRESS"]
        return Probe(url, seen, round((time.monotonic() - started) * 1000, 1))
    except TimeoutError:
        return Probe(url, error=f"no answer in {PROBE_S:g} s: UDP is blocked on the way, or the address is wrong")
    except (OSError, KeyError, ValueError) as error:
        return Probe(url, error=_reason(error))
    finally:
        if transport is not None:
            transport.close()


async def probe_turn(server: IceServer, url: str) -> Probe:
    """Ask a TURN server for a relay and give it back (RFC 8656)."""
    from aioice import stun, turn

    where = parse_url(url)
    started = time.monotonic()
    try:
        async with asyncio.timeout(PROBE_S):
            transport, _ = await turn.create_turn_endpoint(
                asyncio.DatagramProtocol,
                server_addr=await _resolve(where) if not where.tls else (where.host, where.port),
                username=server.username,
                password=server.credential,
                ssl=where.tls,
                transport=where.transport,
            )
    except TimeoutError:
        return Probe(
            url, error=f"no answer in {PROBE_S:g} s: {where.transport.upper()} to it is blocked, or it is down"
        )
    except stun.TransactionFailed as error:
        wrong = error.response.error_code in (401, 403, 438)
        return Probe(url, error="it refuses the username or the credential" if wrong else str(error))
    except (OSError, stun.TransactionError, ValueError) as error:
        return Probe(url, error=_reason(error))
    taken = round((time.monotonic() - started) * 1000, 1)
    relay: tuple[str, int] = transport.get_extra_info("sockname")
    transport.close()
    await asyncio.sleep(0.1)  # it says goodbye in a task of its own
    return Probe(url, relay, taken)


async def _resolve(where: ServerUrl) -> tuple[str, int]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(where.host, where.port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    address, port = found[0][4][:2]
    return str(address), int(port)


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known here: check the spelling and this machine's DNS"
    return f"{type(error).__name__}: {error}"


async def _udp(net: RtcNet, addresses: list[str]) -> Finding:
    """A datagram from every address to itself: local firewalls that block UDP show here."""
    works, fails = list[str](), list[str]()
    for address in addresses or [LOOPBACK]:
        try:
            received = await asyncio.to_thread(_echo, net, address)
        except (OSError, NotReadyError) as error:
            received = False
            fails.append(f"{address} ({error})")
            continue
        (works if received else fails).append(address)
    if works:
        return Finding("UDP", "ok", f"works on {' '.join(works)}")
    return Finding("UDP", "broken", f"fails on {', '.join(fails)}", "allow UDP in this machine's firewall")


def _echo(net: RtcNet, address: str) -> bool:
    with net.socket(address) as one:
        one.settimeout(1.0)
        one.sendto(b"emo-live", one.getsockname())
        try:
            return one.recv(100) == b"emo-live"
        except TimeoutError:
            return False


def _addresses(addresses: list[str]) -> Finding:
    if not addresses:
        return Finding("addresses", "optional", "no network: only 127.0.0.1", _NO_NETWORK)
    named = ", ".join(f"{address} ({reach_of(address)})" for address in addresses)
    return Finding("addresses", "ok", named)


def _ports(net: RtcNet, ports: tuple[int, int]) -> Finding:
    """Every connection takes one port of each address."""
    total, free = ports[1] - ports[0] + 1, 0
    for port in range(ports[0], ports[1] + 1):
        try:
            RtcNet(port_range=(port, port)).socket("0.0.0.0").close()
            free += 1
        except NotReadyError:
            continue
    name, detail = "UDP ports", f"{free} of {total} free from {ports[0]} to {ports[1]}: as many connections"
    if free == 0:
        return Finding(name, "broken", detail, "end what uses them, or give another udp_ports")
    return Finding(name, "ok" if free >= 10 else "optional", detail, None if free >= 10 else "give a wider udp_ports")


def _stun_finding(probe: Probe, addresses: list[str]) -> Finding:
    if probe.seen is None:
        return Finding(probe.url, "optional", str(probe.error), "check the address, or take another STUN server")
    how = "no translation" if probe.seen[0] in addresses else "behind address translation"
    return Finding(probe.url, "ok", f"sees us as {probe.seen[0]} in {probe.rtt_ms} ms: {how}")


def _turn_finding(probe: Probe, needed: bool) -> Finding:
    if probe.seen is None:
        remedy = "check the address, the credentials and the firewall between here and it"
        return Finding(probe.url, "broken" if needed else "optional", str(probe.error), remedy)
    return Finding(probe.url, "ok", f"relays through {probe.seen[0]}, after {probe.rtt_ms} ms")


def _http(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host.strip("[]"), port))
    except OSError as error:
        remedy = f"end what listens there (perhaps this server), or: emo-live serve --port {port + 1}"
        return Finding("HTTP port", "optional", f"{host}:{port}: {error.strerror}", remedy)
    return Finding("HTTP port", "ok", f"{host}:{port} is free")


def _elsewhere(
    net: RtcNet, addresses: list[str], reflected: list[Probe], relayed: list[Probe], listen: tuple[str, int] | None
) -> Finding:
    """Why a browser on another machine would not connect, or from where one would."""
    name = "browsers elsewhere"
    if listen is not None and _is_loopback(listen[0]):
        remedy = "emo-live serve --host 0.0.0.0, with a key or a token: EMO_LIVE_API_KEYS"
        return Finding(name, "optional", f"cannot reach the page: it listens on {listen[0]} only", remedy)
    if any(probe.seen for probe in relayed):
        return Finding(name, "ok", "connect from anywhere: through the relay where there is no direct path")
    if net.relay_only:
        return Finding(name, "broken", "cannot connect: media is relay-only and no TURN server relays", _TURN)
    if not addresses:
        return Finding(name, "optional", "cannot connect: this machine has no network", _NO_NETWORK)
    if _in_container() and not any(reach_of(address) == "public" for address in addresses):
        remedy = f"run the container with the host's network, or {_TURN}"
        detail = "cannot connect unless this container has its host's network: other addresses of it end there"
        return Finding(name, "optional", detail, remedy)
    ports = f"UDP {net.port_range[0]} to {net.port_range[1]}" if net.port_range else "UDP, every port (see udp_ports)"
    if any(reach_of(address) == "public" for address in addresses):
        return Finding(name, "ok", f"connect if firewalls let {ports} in; behind strict ones only with TURN", _TURN)
    if any(probe.seen for probe in reflected):
        detail = "connect from most networks; not where UDP is blocked or the translation is symmetric"
        return Finding(name, "optional", detail, _TURN)
    detail = f"connect within this network only, if firewalls let {ports} in: our addresses mean nothing outside"
    return Finding(name, "optional", detail, _TURN)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _in_container(root: Path = Path("/")) -> bool:
    return (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
