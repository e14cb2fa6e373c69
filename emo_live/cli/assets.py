"""The files that come with the package: where they are, and whether they are what was shipped (SHA256SUMS)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SUMS = "SHA256SUMS"
MODEL = "tiny"  # the folder without which nothing can be rendered


@dataclass(frozen=True, slots=True)
class Asset:
    """name: path below the assets folder, with forward slashes. size_bytes: None if the file is missing."""

    name: str
    state: Literal["ok", "missing", "changed"]
    size_bytes: int | None


def check_assets(folder: Path = ASSETS) -> list[Asset]:
    """Compare every file listed in SHA256SUMS with its sum; empty if there is no list."""
    assets = []
    for name, expected in read_sums(folder).items():
        path = folder / name
        if not path.is_file():
            assets.append(Asset(name, "missing", None))
            continue
        state: Literal["ok", "changed"] = "ok" if sha256(path) == expected else "changed"
        assets.append(Asset(name, state, path.stat().st_size))
    return assets


def read_sums(folder: Path = ASSETS) -> dict[str, str]:
    """{name: sum in hex}, from the format that the program sha256sum writes."""
    try:
        text = (folder / SUMS).read_text()
    except OSError:
        return {}
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return {name.lstrip("*").removeprefix("./"): digest for digest, name in pairs}


def write_sums(folder: Path = ASSETS) -> Path:
    """List every file in the folder; run after exporting a model (make checksums)."""
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in asset_files(folder)]
    target = folder / SUMS
    target.write_text("".join(lines))
    return target


def asset_files(folder: Path = ASSETS) -> list[Path]:
    """Everything that is shipped, except the list itself and hidden files."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return sorted(path for path in found if not path.name.startswith("."))


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
