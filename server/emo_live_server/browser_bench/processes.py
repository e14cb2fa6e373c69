"""Servers that are measured run as programs of their own, as they do in use; and what such a program takes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emo_live.errors import EngineError

_PROC = Path("/proc")
_POLL_S = 0.1
_STOP_S = 25.0
_BURDEN_S = 180


@dataclass(frozen=True, slots=True)
class Server:
    """url: its origin, without a slash at the end."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all below it. cpu_s: processor time since they began; rss_mb: memory now."""

    cpu_s: float
    rss_mb: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(*arguments: str, port: int, ready: str = "/healthz", patience_s: float = 90.0) -> Iterator[Server]:
    """`python -m ARGUMENTS` until the block ends. Raises EngineError if `ready` does not answer 200 in time."""
    # The settings of somebody's own server are not those of a measurement.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMO_LIVE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    server = Server(f"http://127.0.0.1:{port}", process.pid)
    try:
        _await_ready(process, server.url + ready, patience_s)
        yield server
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def burdened(count: int) -> Iterator[None]:
    """Meanwhile so many processes compute without a pause; they end by themselves, should this one be killed."""
    spin = f"import time\nend = time.monotonic() + {_BURDEN_S}\nwhile time.monotonic() < end: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", spin])
            stack.callback(process.wait, timeout=_STOP_S)
            stack.callback(process.kill)
        yield


def _await_ready(process: subprocess.Popen[bytes], url: str, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            output = process.communicate()[1].decode(errors="replace").strip().splitlines()
            raise EngineError(f"the server ended at once: {output[-1] if output else 'without a word'}")
        try:
            with urllib.request.urlopen(url, timeout=2.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    raise EngineError(f"{url} did not answer within {patience_s:.0f} s")


def usage(pid: int) -> Usage | None:
    """None where there is no /proc."""
    if not (_PROC / str(pid)).exists():
        return None
    total_s = total_mb = 0.0
    for number in _family(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = (_PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
            total_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            total_mb += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Usage(total_s, total_mb)


def _family(pid: int) -> set[int]:
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return family
