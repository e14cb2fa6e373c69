"""What this machine has: CPU and instruction sets, cores and memory that this process may use (affinity, cgroups).

Reads /proc and /sys on Linux, asks sysctl on macOS, and says "unknown" elsewhere; never fails. All sizes in bytes.
`root` is the folder that holds proc/ and sys/ (another one in tests).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path("/")
_M_ARENA_MAX = -8  # malloc.h of glibc
# cgroup v1 says "no limit" with a number near 2^63.
_NO_LIMIT_BYTES = 1 << 60

# Names as /proc/cpuinfo writes them, in the order they are shown. The first block is x86, the second ARM.
_FEATURES = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
# The same in the words of sysctl on macOS: hw.optional.* (Intel), hw.optional.arm.FEAT_* (Apple).
_SYSCTL_NAMES = {
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}


@dataclass(frozen=True, slots=True)
class Cpu:
    """usable_cores: what affinity and a container's quota leave to this process; a quota may be a fraction."""

    model: str
    architecture: str
    logical_cores: int
    usable_cores: float
    features: tuple[str, ...]

    @property
    def best_precision(self) -> str:
        """The cheapest number format that this CPU computes natively: "bf16", "int8" or "fp32"."""
        has = set(self.features)
        if has & {"amx_bf16", "avx512_bf16"}:
            return "bf16"
        return "int8" if has & {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm"} else "fp32"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; None where the system does not tell. limit: what a container allows, None without one."""

    total: int | None
    available: int | None
    limit: int | None

    @property
    def usable(self) -> int | None:
        """Bytes that this process may still take, as far as the system tells."""
        return min((size for size in (self.available, self.limit) if size is not None), default=None)


def cpu(root: Path = _ROOT) -> Cpu:
    """Describe the processor and how much of it this process may use."""
    cores = os.cpu_count() or 1
    model, flags = _from_cpuinfo(_read(root / "proc/cpuinfo"))
    if not flags and sys.platform == "darwin":
        model, flags = _from_sysctl(_run("sysctl", "-a"))
    try:
        allowed = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        allowed = float(cores)
    return Cpu(
        model=model or platform.processor() or "unknown",
        architecture=platform.machine() or "unknown",
        logical_cores=cores,
        usable_cores=min(allowed, _cpu_quota(root)),
        features=tuple(name for name in _FEATURES if name in flags),
    )


def memory(root: Path = _ROOT) -> Memory:
    """Describe main memory and the container's limit on it."""
    fields: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        parts = value.split()
        if parts and parts[0].isdigit():
            fields[name] = int(parts[0]) * 1024
    total = fields.get("MemTotal")
    if total is None and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Memory(total=total, available=fields.get("MemAvailable"), limit=_memory_limit(root))


def peak_rss_bytes(root: Path = _ROOT) -> int | None:
    """The most memory that this process has held so far; None on systems that do not tell."""
    # Linux's getrusage also counts what the parent held when it started this process.
    for line in _read(root / "proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_cpu_s(pid: int, root: Path = _ROOT) -> float | None:
    """Seconds of CPU that a process has used; None on systems that do not tell, and when it is gone."""
    fields = _read(root / f"proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 13:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_rss_bytes(pid: int, root: Path = _ROOT) -> int | None:
    """Memory that a process holds now; None on systems that do not tell, and when it is gone."""
    for line in _read(root / f"proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def describe() -> dict[str, object]:
    """The machine as plain data, ready for JSON."""
    processor = cpu()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpu": {**asdict(processor), "best_precision": processor.best_precision},
        "memory": asdict(memory()),
    }


def _from_cpuinfo(text: str) -> tuple[str, set[str]]:
    """(model, flags) of the first processor; ARM kernels write no model and call the flags "Features"."""
    model, flags = "", set[str]()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        name = name.strip().lower()
        if name == "model name" and not model:
            model = value.strip()
        elif name in ("flags", "features") and not flags:
            flags = set(value.split())
    return model, flags


def _from_sysctl(text: str) -> tuple[str, set[str]]:
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    flags = {name for key, name in _SYSCTL_NAMES.items() if values.get(key, "0").strip() == "1"}
    return values.get("machdep.cpu.brand_string", "").strip(), flags


def _cpu_quota(root: Path) -> float:
    """Cores that the control group allows: the tightest one on the way up; infinite without a quota."""
    quotas = [math.inf]
    for folder in _cgroups(root, "cpu"):
        words = _read(folder / "cpu.max").split()  # version 2: "QUOTA PERIOD" in microseconds, or "max PERIOD"
        if not words:
            words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas)


def _memory_limit(root: Path) -> int | None:
    limits = []
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < _NO_LIMIT_BYTES:
                limits.append(int(text))
    return min(limits, default=None)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and its parents, for both versions of the interface."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or (parts[1] and controller not in parts[1].split(",")):
            continue
        top = root / "sys/fs/cgroup" / (controller if parts[1] else "")
        # Inside a container the path may be the host's; folders that are not there are read as empty.
        inner = Path(parts[2].lstrip("/"))
        yield from (top / folder for folder in (inner, *inner.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def few_heaps() -> None:
    """For a process of our own, before it starts threads: they share two heaps. Each thread's own would keep what it
    has freed, and compilers have many threads."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc can
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def return_freed_memory() -> None:
    """What was freed, and is kept by the C library for itself, goes back to the system, where that can be asked for."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc can
        ctypes.CDLL(None).malloc_trim(0)
