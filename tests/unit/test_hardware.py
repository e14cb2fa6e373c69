"""What hardware.py reads out of /proc and /sys, on made-up machines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from emo_live import hardware


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_x86(tmp_path: Path) -> None:
    text = (
        "model name\t: Fast 9000\nflags\t\t: fpu avx2 fma avx512f avx512_vnni\n\nmodel name\t: other\nflags\t\t: none\n"
    )
    cpu = hardware.cpu(make(tmp_path, {"proc/cpuinfo": text}))
    assert cpu.model == "Fast 9000"
    assert cpu.features == ("fma", "avx2", "avx512f", "avx512_vnni")
    assert cpu.best_precision == "int8"


def test_arm(tmp_path: Path) -> None:
    cpu = hardware.cpu(make(tmp_path, {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimddp bf16\n"}))
    assert cpu.features == ("asimd", "asimddp", "bf16")
    assert cpu.model


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("avx2", "fp32"), ("avx2 avx_vnni", "int8"), ("avx512_vnni amx_bf16", "bf16"), ("asimd i8mm", "int8")],
)
def test_best_precision(flags: str, precision: str, tmp_path: Path) -> None:
    assert hardware.cpu(make(tmp_path, {"proc/cpuinfo": f"flags : {flags}\n"})).best_precision == precision


def test_apple() -> None:
    text = "machdep.cpu.brand_string: Apple M9\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 0\nodd line\n"
    assert hardware._from_sysctl(text) == ("Apple M9", {"bf16"})


def test_nothing_to_read(tmp_path: Path) -> None:
    cpu, memory = hardware.cpu(tmp_path), hardware.memory(tmp_path)
    assert cpu.logical_cores == (os.cpu_count() or 1)
    assert 0 < cpu.usable_cores <= cpu.logical_cores
    assert cpu.features == ()
    assert (memory.available, memory.limit) == (None, None)


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        },
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/x\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["version 2", "parent group", "version 1"],
)
def test_cpu_quota(files: dict[str, str], tmp_path: Path) -> None:
    assert hardware.cpu(make(tmp_path, files)).usable_cores == 0.5


@pytest.mark.parametrize("quota", ["max 100000", "-1", "", "5 0", "words here too"])
def test_no_cpu_quota(quota: str, tmp_path: Path) -> None:
    root = make(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    assert hardware.cpu(root).usable_cores >= 1


def test_memory(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal:       2000 kB\nMemAvailable:   1000 kB\nHugePages_Total:       0\n",
        "proc/self/cgroup": "0::/a\n",
        "sys/fs/cgroup/a/memory.max": "max\n",
        "sys/fs/cgroup/memory.max": "700000\n",
    }
    memory = hardware.memory(make(tmp_path, files))
    assert (memory.total, memory.available, memory.limit) == (2_048_000, 1_024_000, 700_000)


def test_unlimited_version_1(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert hardware.memory(make(tmp_path, files)).limit is None


def test_this_machine_as_json() -> None:
    machine = json.loads(json.dumps(hardware.describe()))
    assert machine["cpu"]["best_precision"] in {"bf16", "int8", "fp32"}
    peak = hardware.peak_rss_bytes()
    assert peak is None or peak > 1_000_000


def test_peak_memory(tmp_path: Path) -> None:
    assert hardware.peak_rss_bytes(make(tmp_path, {"proc/self/status": "Name: x\nVmHWM:\t   2000 kB\n"})) == 2_048_000
    assert (hardware.peak_rss_bytes(tmp_path / "nowhere") or 1) > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to")
def test_freed_memory_is_returned() -> None:
    # In a process of its own: what other tests have freed is not counted.
    code = """
import os
from emo_live.hardware import process_rss_bytes, return_freed_memory
pieces = [bytearray(2000) for _ in range(30_000)]
last = pieces[-1]  # lies above the others, so that they are not returned by themselves
pieces.clear()
before = process_rss_bytes(os.getpid())
return_freed_memory()
print(before - process_rss_bytes(os.getpid()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(run.stdout) > 40_000_000
