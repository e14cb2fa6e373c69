"""A STUN and TURN server for tests, as much of RFC 8489 and RFC 8656 as a client with long-term credentials needs.

UDP, IPv4, channels only. It relays between sockets of this machine and counts what it relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator
from typing import Any

from aioice import stun

REALM, NONCE = "emo-live", b"nonce"
USER, PASSWORD = "viewer", "correct horse"
Address = tuple[str, int]


class _Relayed(asyncio.DatagramProtocol):
    """The relay's side towards the peers: what comes from a peer with a channel goes to the client."""

    def __init__(self, server: Relay, client: Address) -> None:
        self.server, self.client = server, client
        self.channels: dict[int, Address] = {}
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        for channel, peer in self.channels.items():
            if peer == addr:
                self.server.relayed += 1
                self.server.transport.sendto(struct.pack("!HH", channel, len(data)) + data, self.client)


class Relay(asyncio.DatagramProtocol):
    """relayed: datagrams in both directions. allocations: clients that have a relay now."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.allocations: dict[Address, _Relayed] = {}
        self.relayed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._key = hashlib.md5(f"{USER}:{REALM}:{PASSWORD}".encode()).digest()

    @property
    def port(self) -> int:
        return int(self.transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if data[0] & 0xC0 == 0x40:
            channel, length = struct.unpack("!HH", data[:4])
            allocation = self.allocations.get(addr)
            if allocation is not None and channel in allocation.channels:
                self.relayed += 1
                allocation.transport.sendto(data[4 : 4 + length], allocation.channels[channel])
            return
        request = stun.parse_message(data)
        if request.message_method == stun.Method.BINDING:
            self._reply(request, addr, {"XOR-MAPPED-ADDRESS": addr}, signed=False)
        elif not request.check_message_integrity(self._key):
            refusal = {"ERROR-CODE": (401, "Unauthorized"), "REALM": REALM, "NONCE": NONCE}
            self._reply(request, addr, refusal, kind=stun.Class.ERROR, signed=False)
        elif request.message_method == stun.Method.ALLOCATE:
            task = asyncio.ensure_future(self._allocate(request, addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif request.message_method == stun.Method.CHANNEL_BIND:
            channels = self.allocations[addr].channels
            channels[request.attributes["CHANNEL-NUMBER"]] = request.attributes["XOR-PEER-ADDRESS"]
            self._reply(request, addr, {})
        elif request.message_method == stun.Method.REFRESH:
            if request.attributes["LIFETIME"] == 0 and addr in self.allocations:
                self.allocations.pop(addr).transport.close()
            self._reply(request, addr, {"LIFETIME": request.attributes["LIFETIME"]})

    async def _allocate(self, request: stun.Message, addr: Address) -> None:
        loop = asyncio.get_running_loop()
        _, relayed = await loop.create_datagram_endpoint(
            lambda: _Relayed(self, addr), local_addr=(self.transport.get_extra_info("sockname")[0], 0)
        )
        self.allocations[addr] = relayed
        ours = relayed.transport.get_extra_info("sockname")
        self._reply(request, addr, {"LIFETIME": 600, "XOR-MAPPED-ADDRESS": addr, "XOR-RELAYED-ADDRESS": ours})

    def _reply(
        self,
        request: stun.Message,
        addr: Address,
        attributes: dict[str, Any],
        kind: stun.Class = stun.Class.RESPONSE,
        signed: bool = True,
    ) -> None:
        response = stun.Message(request.message_method, kind, request.transaction_id)
        response.attributes.update(attributes)
        if signed:
            response.add_message_integrity(self._key)
        self.transport.sendto(bytes(response), addr)

    def close(self) -> None:
        for allocation in self.allocations.values():
            allocation.transport.close()
        self.transport.close()


@contextlib.asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    loop = asyncio.get_running_loop()
    _, server = await loop.create_datagram_endpoint(Relay, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        server.close()
        await asyncio.sleep(0)
