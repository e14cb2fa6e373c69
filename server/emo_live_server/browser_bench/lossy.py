"""A network that loses packets, between a browser and a WHEP address: a proxy for the offer and for every datagram.

Each side knows only the proxy's address, so nothing goes around it. What is lost is drawn with a fixed seed, in both
directions and whatever it is (media, reports, ICE, DTLS). Nothing is delayed and nothing changes its order.
As a program: `python -m emo_live_server.browser_bench.lossy PORT WHEP_ADDRESS PERCENT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response

Address = tuple[str, int]
_TIMEOUT_S = 20.0
_MAX_CLIENTS = 64  # addresses of one browser: it tries from each of its own


class LossyPath(asyncio.DatagramProtocol):
    """What a browser takes for the server. percent: of datagrams that are lost. passed, lost: how many were."""

    def __init__(self, target: Address, percent: float, seed: int = 1) -> None:
        self.passed = self.lost = 0
        self._target, self._percent, self._chance = target, percent, random.Random(seed)
        self._transport: Any = None
        self._onward: dict[Address, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Its port, at the address of the server."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self._target[0], 0))
        return int(self._transport.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if addr not in self._onward and len(self._onward) < _MAX_CLIENTS:
            loop = asyncio.get_running_loop()
            self._onward[addr] = loop.create_future()
            task = loop.create_task(self._connect(addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        onward = self._onward.get(addr)
        if onward is not None and onward.done() and self.passes():  # before that: lost, and sent again
            onward.result().sendto(data)

    async def _connect(self, client: Address) -> None:
        back = _Back(self, client)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: back, remote_addr=self._target)
        self._onward[client].set_result(transport)

    def passes(self) -> bool:
        """Whether the next datagram gets through."""
        lost = self._chance.random() * 100 < self._percent
        self.lost += lost
        self.passed += not lost
        return not lost

    def send_back(self, data: bytes, client: Address) -> None:
        if self.passes():
            self._transport.sendto(data, client)

    def close(self) -> None:
        for onward in self._onward.values():
            if onward.done():
                onward.result().close()
        self._transport.close()


class _Back(asyncio.DatagramProtocol):
    """From the server to one address of the browser."""

    def __init__(self, path: LossyPath, client: Address) -> None:
        self._path, self._client = path, client

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._path.send_back(data, self._client)


def without_candidates(sdp: str) -> str:
    """An offer that tells nothing of where the browser is."""
    return "".join(f"{line}\r\n" for line in sdp.splitlines() if not line.startswith(("a=candidate", "a=end-of-cand")))


def target_of(answer: str) -> Address:
    """Where the server wants its media: its first host candidate with IPv4. Raises ValueError if there is none."""
    for line in answer.splitlines():
        words = line.split()
        if line.startswith("a=candidate") and words[7] == "host" and ":" not in words[4]:
            return words[4], int(words[5])
    raise ValueError("the answer has no host candidate")


def redirected(answer: str, target: Address, port: int) -> str:
    """The answer with the path's port in the target's place, and without any other way."""
    lines = []
    for line in answer.splitlines():
        words = line.split()
        if line.startswith("a=candidate"):
            if (words[4], words[5]) != (target[0], str(target[1])):
                continue
            line = " ".join([*words[:5], str(port), *words[6:]])
        lines.append(line)
    return "".join(f"{line}\r\n" for line in lines)


def lossy_app(whep: str, percent: float) -> FastAPI:
    """POST /whep answers as the address `whep` does, through a LossyPath."""
    paths: list[LossyPath] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for path in paths:
            path.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response()

    @app.post("/whep")
    async def offer(request: Request) -> Response:
        body = without_candidates((await request.body()).decode()).encode()
        answer = await asyncio.to_thread(_asked, whep, body)
        path = LossyPath(target_of(answer), percent)
        paths.append(path)
        port = await path.open()
        return Response(redirected(answer, target_of(answer), port), 201, {"Location": "/whep/1"}, "application/sdp")

    return app


def _asked(whep: str, offer: bytes) -> str:
    request = urllib.request.Request(whep, offer, {"Content-Type": "application/sdp"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
        answer: bytes = reply.read()
    return answer.decode()


if __name__ == "__main__":
    import uvicorn

    own_port, address, share = sys.argv[1:]
    uvicorn.run(lossy_app(address, float(share)), host="127.0.0.1", port=int(own_port), log_level="warning")
