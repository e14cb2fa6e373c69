"""Which of this machine's addresses and UDP ports media uses, and which STUN and TURN servers help it through.

Every local address becomes a candidate. Loopback is one only where there is no other address: a laptop without a
network still shows the avatar to its own browser, and nobody else is told to look for it on his own machine.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from dataclasses import dataclass, field

from emo_live.errors import BadInputError, NotReadyError

LOOPBACK = "127.0.0.1"
_SCHEMES = ("stun", "stuns", "turn", "turns")


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server, with the names that browsers use. The secret is not printed."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for url in self.urls:
            parse_url(url)
        if self.relays and not (self.username and self.credential):
            raise BadInputError(f"{self.urls[0]} needs a username and a credential")

    @property
    def relays(self) -> bool:
        return any(url.startswith("turn") for url in self.urls)


@dataclass(frozen=True, slots=True)
class RtcNet:
    """port_range: first and last UDP port that media may use on this machine, None for any.

    loopback: whether 127.0.0.1 is a candidate; None: if there is no other address. relay_only: only through TURN.
    """

    ice_servers: tuple[IceServer, ...] = ()
    relay_only: bool = False
    port_range: tuple[int, int] | None = None
    loopback: bool | None = None

    def __post_init__(self) -> None:
        if self.relay_only and not any(server.relays for server in self.ice_servers):
            raise BadInputError("relay_only needs a TURN server among ice_servers")
        if self.port_range is not None and not 1024 <= self.port_range[0] <= self.port_range[1] <= 65_535:
            raise BadInputError("port_range is (first, last), from 1024 to 65535")

    def addresses(self) -> list[str]:
        """Of this machine, that candidates are made of."""
        if self.relay_only:
            return []
        found = local_addresses()
        return [*found, LOOPBACK] if self.loopback or (self.loopback is None and not found) else found

    def socket(self, address: str) -> socket.socket:
        """A UDP socket bound within the range. OSError if the address is not ours; NotReadyError if no port is free."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        first, last = self.port_range or (0, 0)
        ports = list(range(first, last + 1))
        start = random.randrange(len(ports))  # ports just left are last to be taken again
        for port in ports[start:] + ports[:start]:
            bound = socket.socket(family, socket.SOCK_DGRAM)
            try:
                bound.bind((address, port))
            except OSError as error:
                bound.close()
                if not _in_use(error) or port == 0:
                    raise
            else:
                bound.setblocking(False)
                return bound
        raise NotReadyError(f"no UDP port from {first} to {last} is free: end a session or give a wider range")


def _in_use(error: OSError) -> bool:
    import errno

    return error.errno in (errno.EADDRINUSE, errno.EACCES)


def local_addresses() -> list[str]:
    """IPv4 and IPv6 addresses of network interfaces, without loopback and link-local ones of IPv6."""
    from aioice.ice import get_host_addresses

    found = get_host_addresses(use_ipv4=True, use_ipv6=True)
    return [address for address in dict.fromkeys(found) if not ipaddress.ip_address(address).is_loopback]


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A stun: or turn: address taken apart. transport: udp or tcp; tls: of it."""

    scheme: str
    host: str
    port: int
    transport: str
    tls: bool


def parse_url(url: str) -> ServerUrl:
    """RFC 7064 and RFC 7065. BadInputError says what such a url looks like."""
    scheme, _, rest = url.partition(":")
    address, _, query = rest.partition("?")
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, ""
    tls = scheme.endswith("s")
    transport = query.removeprefix("transport=") or ("tcp" if tls else "udp")
    good = scheme in _SCHEMES and host and (not port or (port.isdigit() and 0 < int(port) < 65_536))
    if not good or transport not in ("udp", "tcp") or (query and scheme.startswith("stun")):
        raise BadInputError(f"{url!r} is no address like stun:example.org:3478 or turn:example.org?transport=tcp")
    return ServerUrl(scheme, host.strip("[]"), int(port) if port else (5349 if tls else 3478), transport, tls)
