"""manifest.json of a model folder: which model, its config, and every file with its size, sum, source and licence.

A manifest may come from anybody, so it is read strictly: names of files that could lead out of the folder, wrong types,
unknown fields and huge files raise BadInputError.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from emo_live.config import EmoConfig
from emo_live.config_dict import config_from_dict, rebuilt
from emo_live.errors import BadInputError

FORMAT = 1
MANIFEST = "manifest.json"
Model = Literal["hallo", "hallo2", "joyhallo", "echomimic"]

_MAX_BYTES = 1_000_000
_MAX_FILES = 100
# One folder deep, no hidden files, nothing that could climb out.
_PLAIN = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
_NAME, _PATH = re.compile(_PLAIN), re.compile(f"(?:{_PLAIN}/)?{_PLAIN}")
_SUM = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Source:
    """What a file was made from. repo and revision: on the hub; None for a local file, whose name alone is kept."""

    repo: str | None
    revision: str | None
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    sha256: str
    bytes: int
    source: tuple[Source, ...]
    licence: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """notes: sentences that a user should read, about licences and about what conversion changed."""

    format: int
    name: str
    model: Model
    config: EmoConfig
    files: dict[str, FileEntry]
    notes: tuple[str, ...]


def check_name(name: str) -> None:
    """Raise BadInputError unless a model, and so its folder, can be called that."""
    if not _NAME.fullmatch(name):
        raise BadInputError(f"'{name[:60]}' is not the name of a model: use letters, digits, dots and dashes")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Raises BadInputError, which says what is wrong and where; whoever calls adds what to do."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadInputError(f"'{path}' cannot be read ({error.strerror})") from error
    if len(data) > _MAX_BYTES:
        raise BadInputError(f"'{path}' is larger than a manifest can be")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"'{path}' is not JSON") from error
    try:
        return _checked(value)
    except BadInputError as error:
        raise BadInputError(f"'{path}' cannot be trusted: {error}") from error


def _checked(value: object) -> Manifest:
    found = value.get("format") if isinstance(value, dict) else None
    if type(found) is int and found != FORMAT:
        raise BadInputError(f"it has format {str(found)[:20]}, this program reads format {FORMAT}")
    manifest = rebuilt(Manifest, value, "the manifest")
    config_from_dict(asdict(manifest.config))  # sizes
    check_name(manifest.name)
    if len(manifest.files) > _MAX_FILES:
        raise BadInputError(f"it lists more than {_MAX_FILES} files")
    for name, entry in manifest.files.items():
        if not _PATH.fullmatch(name) or name == MANIFEST:
            raise BadInputError(f"it lists {name[:60]!r}, which is no name of a model's file")
        if not _SUM.fullmatch(entry.sha256) or entry.bytes < 0:
            raise BadInputError(f"size or sum of {name} is none")
    return manifest
