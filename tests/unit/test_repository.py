"""The checkout as a whole: nothing of a developer's machine in it, files of readable length, assets as listed."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from emo_live.cli.assets import ASSETS, SUMS, asset_files, check_assets, read_sums

ROOT = Path(__file__).resolve().parents[2]
MAX_CODE_LINES = 400
MAX_EXAMPLE_LINES = 60
MAX_MODEL_BYTES = 60_000_000
MAX_BASE_INSTALL_BYTES = 450_000_000
MODEL_SUFFIXES = {".bin", ".xml", ".npz", ".onnx", ".pt", ".safetensors", ".tflite"}
TEXT_SUFFIXES = {"", ".py", ".md", ".toml", ".cfg", ".txt", ".json", ".yml", ".yaml", ".sh"}

# Put together here, so that this file does not find itself.
FORBIDDEN = re.compile(
    "|".join(
        (
            r"(?<![\w./])/" + r"(?:work|root|home/\w+|opt/pypi)\b",
            r"\b" + "far" + r"m\b",
            r"\bpypi\." + "org",
            r"pythonhosted\." + "org",
            r"download\.pytorch\." + "org",
            r"registry\.npmjs\." + "org",
            r"deb\.debian\." + "org",
            r"(?:--|extra-|_)index" + r"[-_]url",
        )
    ),
    re.IGNORECASE,
)


@cache
def repository_files() -> tuple[Path, ...]:
    """Tracked files and those that would be; everything readable where this is no git checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        tops = ("emo_live", "tests", "examples", "docs")
        return tuple(path for top in tops for path in (ROOT / top).rglob("*") if path.is_file())
    return tuple(path for name in sorted(listing.split("\0")) if name and (path := ROOT / name).is_file())


def text_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix in TEXT_SUFFIXES and path.name != "LICENSE"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /wo" + "rk/main", True),
        ("artwork/main", False),
        ("x --index" + "-url y", True),
        ("an index of urls", False),
    ],
)
def test_the_pattern_finds_what_it_should(text: str, found: bool) -> None:
    assert bool(FORBIDDEN.search(text)) is found


def test_no_trace_of_a_machine_or_an_index() -> None:
    assert len(text_files()) > 20
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert hits == []


def test_files_stay_readable() -> None:
    code = [path for path in repository_files() if path.suffix == ".py"]
    limits = {path: MAX_EXAMPLE_LINES if path.parent == ROOT / "examples" else MAX_CODE_LINES for path in code}
    lengths = {path: len(path.read_text().splitlines()) for path in code}
    assert {str(path.relative_to(ROOT)): lengths[path] for path in code if lengths[path] > limits[path]} == {}


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md"])
def test_the_usual_files_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_models_are_small() -> None:
    models = [path for path in asset_files() if path.suffix in MODEL_SUFFIXES]
    assert models
    assert sum(path.stat().st_size for path in models) <= MAX_MODEL_BYTES


def test_assets_are_what_the_list_says() -> None:
    listed, shipped = set(read_sums()), {path.relative_to(ASSETS).as_posix() for path in asset_files()}
    wrong = [asset.name for asset in check_assets() if asset.state != "ok"]
    assert (listed, wrong) == (shipped, []), f"run make checksums to write {SUMS} again"


def test_sample_portraits_are_made_ones() -> None:
    portraits = [path.name for path in asset_files(ASSETS / "portraits") if path.suffix in {".jpg", ".png"}]
    assert portraits
    assert all(name.startswith("faker_") for name in portraits)


def test_torch_is_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!~\[ ;]", line)[0] for line in project["dependencies"]}
    assert names.isdisjoint({"torch", "diffusers", "transformers", "scipy"})


def test_base_install_is_small() -> None:
    """Bytes of everything a plain install brings, by the installed packages' own records."""
    waiting, seen = ["emo-live"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            if name == "emo-live":
                pytest.skip("emo-live is not installed here")
            continue  # a dependency of another system
        seen.add(name)
        waiting += [match.group().lower().replace("_", "-") for line in requirements if (match := _base_name(line))]
    assert len(seen) > 8
    sizes = {name: _installed_bytes(name) for name in seen}
    sizes["emo-live"] = sum(path.stat().st_size for path in (ROOT / "emo_live").rglob("*") if path.is_file())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    assert sum(sizes.values()) <= MAX_BASE_INSTALL_BYTES, f"{sum(sizes.values()) / 1e6:.0f} MB, largest: {largest}"


def _base_name(requirement: str) -> re.Match[str] | None:
    return None if re.search(r"\bextra\b", requirement) else re.match(r"[A-Za-z0-9._-]+", requirement)


def _installed_bytes(name: str) -> int:
    return sum(file.size or 0 for file in metadata.files(name) or [])
