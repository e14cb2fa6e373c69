"""Finds out what works on this machine and what to install for the rest. Every check answers; none of them raises."""

from __future__ import annotations

import asyncio
import ctypes.util
import importlib.util
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from emo_live import hardware
from emo_live.cli.assets import MODEL, SUMS, check_assets
from emo_live.errors import BadInputError
from emo_live.inference import openvino_core

State = Literal["ok", "optional", "broken"]

_MIN_DISK_BYTES = 500_000_000
_MIN_MEMORY_BYTES = 1_000_000_000
_ENCODERS = {"libx264": ".mp4", "aac": ".mp4", "libvpx-vp9": ".webm", "libopus": ".webm"}
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Check:
    """optional: rendering works without it. broken: it does not. remedy: what to do, if anything."""

    name: str
    state: State
    detail: str
    remedy: str | None = None


def diagnose(folder: Path) -> list[Check]:
    """All checks; folder is where videos would be written."""
    checks: list[Check] = []
    here = (_python, _packages, _encoders, _devices, _assets, lambda: _place(folder), _memory, _extras, _egl)
    for part in (*here, _live):
        checks += _guarded(part)
    return checks


def _guarded(part: Callable[[], list[Check]]) -> list[Check]:
    try:
        return part()
    except Exception as error:  # a report that dies on a broken machine would be useless
        name = getattr(part, "__name__", "check").strip("_")
        return [Check(name, "broken", f"{type(error).__name__}: {error}", "install emo-live again")]


def _python() -> list[Check]:
    version = sys.version_info
    supported = (3, 11) <= version[:2] < (3, 15)
    remedy = None if supported else "use Python 3.11 to 3.14"
    return [Check("python", "ok" if supported else "broken", f"{version[0]}.{version[1]}.{version[2]}", remedy)]


def _packages() -> list[Check]:
    base = _requirements().get("", [])
    if not base:
        return [Check("emo-live", "broken", "not installed", "pip install -e . in the checkout")]
    return [_package(name, "broken", f'pip install "{name}"') for name in base]


def _extras() -> list[Check]:
    checks = []
    for extra, names in sorted(_requirements().items()):
        missing = [name for name in names if _version(name) is None]
        if not extra or extra == "dev":
            continue
        detail = f"missing: {', '.join(missing)}" if missing else "complete"
        remedy = f'pip install "emo-live[{extra}]"' if missing else None
        checks.append(Check(f"extra {extra}", "optional" if missing else "ok", detail, remedy))
    return checks


def _requirements() -> dict[str, list[str]]:
    """{extra: names}; "" holds what a plain install needs. Empty if the package itself is not installed."""
    try:
        lines = metadata.requires("emo-live") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name is not None:
            found.setdefault(extra.group(1) if extra else "", []).append(name.group())
    return found


def _package(name: str, if_missing: State, remedy: str) -> Check:
    version = _version(name)
    return Check(name, if_missing, "not installed", remedy) if version is None else Check(name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _encoders() -> list[Check]:
    if importlib.util.find_spec("av") is None:
        return []  # said among the packages
    from av.codec import Codec

    checks = []
    for name, suffix in _ENCODERS.items():
        try:
            Codec(name, "w")
        except ValueError:
            remedy = 'pip install --force-reinstall --only-binary :all: "av"'
            checks.append(Check(f"encoder {name}", "broken", f"missing: no {suffix} files", remedy))
        else:
            checks.append(Check(f"encoder {name}", "ok", f"for {suffix}"))
    return checks


def _devices() -> list[Check]:
    if importlib.util.find_spec("openvino") is None:
        return []
    core = openvino_core()
    checks = []
    for device in core.available_devices:
        name = str(core.get_property(device, "FULL_DEVICE_NAME")).strip()
        can = " ".join(sorted(map(str, core.get_property(device, "OPTIMIZATION_CAPABILITIES"))))
        checks.append(Check(f"openvino {device}", "ok", f"{name}: {can}"))
    if not any(check.name == "openvino CPU" for check in checks):
        checks.append(Check("openvino CPU", "broken", "no CPU device", 'pip install --force-reinstall "openvino"'))
    return checks


def _assets() -> list[Check]:
    assets = check_assets()
    if not assets:
        return [Check("models", "broken", f"no {SUMS} in the package", "install emo-live again")]
    checks = []
    if not any(asset.name.startswith(f"{MODEL}/") for asset in assets):
        checks.append(Check("model", "broken", f"no {MODEL} in the package", "install emo-live again"))
    for asset in assets:
        size = "" if asset.size_bytes is None else f"{asset.size_bytes / 1e6:.2f} MB"
        if asset.state == "ok":
            checks.append(Check(asset.name, "ok", size))
        else:
            checks.append(Check(asset.name, "broken", f"{asset.state} {size}".strip(), "install emo-live again"))
    return checks


def _place(folder: Path) -> list[Check]:
    free = shutil.disk_usage(folder).free
    space = Check("free disk", "ok", f"{free / 1e9:.1f} GB in {folder}")
    if free < _MIN_DISK_BYTES:
        space = Check(
            "free disk", "broken", f"{free / 1e6:.0f} MB in {folder}", "free 500 MB or write elsewhere with --out"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            writable = Check("write access", "ok", str(folder))
    except OSError as error:
        writable = Check("write access", "broken", f"{folder}: {error.strerror}", "write elsewhere with --out")
    return [space, writable]


def _memory() -> list[Check]:
    memory = hardware.memory()
    room = [size for size in (memory.available, memory.limit) if size is not None]
    if not room:
        return [Check("memory", "ok", "the system does not say how much is free")]
    detail = f"{min(room) / 1e9:.1f} GB can be used"
    if min(room) < _MIN_MEMORY_BYTES:
        return [Check("memory", "broken", detail, "close other programs or raise the container's limit to 1 GB")]
    return [Check("memory", "ok", detail)]


def _egl() -> list[Check]:
    if ctypes.util.find_library("EGL") is not None:
        return [Check("EGL", "ok", "for rendering training pictures")]
    remedy = "sudo apt-get install libegl1 libgl1-mesa-dri (or your system's Mesa)"
    return [Check("EGL", "optional", "missing: training pictures cannot be rendered", remedy)]


def _live() -> list[Check]:
    """Live sessions: encoders, and the network as the server would use it. Nothing without the extra, which is said."""
    if any(importlib.util.find_spec(name) is None for name in ("aiortc", "pydantic_settings")):
        return []
    from emo_live.transport.rtc_check import check_network
    from emo_live.transport.rtc_codecs import INSTALL_AV, has_nvenc, working_codecs
    from emo_live.transport.rtc_net import IceServer, RtcNet
    from emo_live_server.settings import load

    codecs = working_codecs()
    detail = ", ".join(sorted(codecs)) + (", h264 on the graphics card" if has_nvenc() else "")
    checks = [Check("live encoders", "ok" if codecs else "optional", detail or "none", None if codecs else INSTALL_AV)]
    try:
        settings = load()
        secrets = [server.credential for server in settings.ice_servers]
        servers = tuple(
            IceServer(server.urls, server.username, secret.get_secret_value() if secret else None)
            for server, secret in zip(settings.ice_servers, secrets, strict=True)
        )
        net = RtcNet(servers, settings.relay_only, settings.udp_ports)
    except BadInputError as error:
        return [*checks, Check("settings", "optional", str(error), "correct it before: emo-live serve")]
    found = asyncio.run(check_network(net, (settings.host, settings.port)))
    # Rendering files, which decides about this command's exit code, needs no network.
    state: dict[str, State] = {"ok": "ok", "optional": "optional", "broken": "optional"}
    return checks + [Check(f"live: {one.name}", state[one.state], one.detail, one.remedy) for one in found]
