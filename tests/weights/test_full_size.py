"""Hallo at its real size, made on the fly: 2.4 billion weights, 4.85 GB, converted in bounded memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from emo_live.models.checkpoints.hallo import HALLO
from emo_live.weights.plans import emo_shapes

MOST_BYTES = 8_000_000_000
NET_BYTES = 4_850_000_000

# Its own process, whose peak of memory is that of one conversion.
CONVERT = """
import sys
from pathlib import Path
from emo_live import hardware
from emo_live.models.checkpoints.hallo import HALLO
from emo_live.weights.catalogue import CATALOGUE
from emo_live.weights.origin import Origin
from emo_live.weights.plans import plan_emo
from emo_live.weights.writing import write_tensors

source, target = Path(sys.argv[1]), Path(sys.argv[2])
plan = plan_emo("hallo", HALLO, {"net": Origin(source)}, None)
print(write_tensors(target, plan.tensors, lambda more: None))
print(hardware.peak_rss_bytes())
"""


class Sparse:
    """A file that holds blocks of zeros as holes, so that it takes no room on the disk."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) > 4096 and not any(view[:64]) and not any(view[-64:]):
            self.stream.seek(len(view), 1)
        else:
            self.stream.write(view)
        return len(view)

    def flush(self) -> None:
        self.stream.flush()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # pytest keeps what its last runs left, and this is much


@pytest.mark.slow
def test_a_published_size(folder: Path) -> None:
    if shutil.disk_usage(folder).free < 2 * NET_BYTES:
        pytest.skip("the disk has no room for it")
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in emo_shapes(HALLO).items()}
    with (folder / "net.pth").open("wb") as stream:
        torch.save(state, Sparse(stream))
    assert (folder / "net.pth").stat().st_size > NET_BYTES
    del state
    arguments = [sys.executable, "-W", "error", "-c", CONVERT, folder / "net.pth", folder / "emo.safetensors"]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    digest, peak_bytes = run.stdout.split()
    assert (folder / "emo.safetensors").stat().st_size > NET_BYTES - 10_000_000
    assert len(digest) == 64 and int(peak_bytes) < MOST_BYTES
