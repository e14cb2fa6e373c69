"""Messages between the media process and the engine process: pickled, with a length before them, over a socket.

A file descriptor may travel with a message. The empty message is a wake-up.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from typing import Any

_HEADER = struct.Struct("<II")  # bytes that follow, file descriptors that travel along
_MAX_BYTES = 1 << 28


def send(sock: socket.socket, message: Any, fd: int | None = None) -> None:
    """Blocks until the other side has room, at most for the socket's timeout."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    header = _HEADER.pack(len(data), 0 if fd is None else 1)
    if fd is None:
        sock.sendall(header)
    else:
        socket.send_fds(sock, [header], [fd])
    sock.sendall(data)


def send_wake(sock: socket.socket) -> None:
    sock.sendall(_HEADER.pack(0, 0))


def receive(sock: socket.socket) -> tuple[Any, int | None]:
    """Blocks for one whole message, and the descriptor that came along. EOFError if the other side is gone."""
    head, fds = b"", list[int]()
    while len(head) < _HEADER.size:
        part, more, _, _ = socket.recv_fds(sock, _HEADER.size - len(head), 1)
        if not part:
            raise EOFError
        head, fds = head + part, fds + list(more)
    length, _ = _HEADER.unpack(head)
    data = bytearray()
    while len(data) < length:
        part = sock.recv(min(length - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return pickle.loads(data), fds[0] if fds else None


class Parser:
    """Cuts what a non-blocking socket gave into messages; None is a wake-up. No file descriptors in this direction."""

    def __init__(self) -> None:
        self._data = bytearray()

    def messages(self, data: bytes) -> Iterator[Any]:
        self._data += data
        while len(self._data) >= _HEADER.size:
            length, _ = _HEADER.unpack_from(self._data)
            assert length <= _MAX_BYTES, "the engine process sends short messages"
            end = _HEADER.size + length
            if len(self._data) < end:
                return
            message = pickle.loads(self._data[_HEADER.size : end]) if length else None
            del self._data[:end]
            yield message
