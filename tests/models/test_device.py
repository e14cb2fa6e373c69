"""Everything that a window of a published model computes with is on the device of its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_tensor_is_left_behind() -> None:
    script = Path(__file__).with_name("pretend_gpu.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    latents, pictures = "pretended:0 (4, 4, 16, 16)", "pretended:0 (4, 128, 128, 3)"
    assert done.stdout.splitlines() == [latents, latents, pictures] * 2
