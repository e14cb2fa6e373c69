"""A laptop without any network still shows the avatar to its own browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def namespace() -> list[str]:
    """What to put before a command to run it on a machine that has nothing but 127.0.0.1."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no unshare and ip here")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@pytest.mark.slow
def test_chromium_without_a_network(namespace: list[str], chromium: str, repository: Path) -> None:
    command = [*namespace, sys.executable, "-m", "tests.interop.offline", chromium]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["shown"]
    assert {line.split()[4] for line in seen["candidates"]} == {"127.0.0.1"}
