"""The files that a model is made from: where they lie and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emo_live.weights.catalogue import Part
from emo_live.weights.manifest import Source


@dataclass(frozen=True, slots=True)
class Origin:
    """path: the file here. repo, revision: where it is on the hub, None for a file that the user gave. sha256: if it
    has been computed already."""

    path: Path
    repo: str | None = None
    revision: str | None = None
    name: str | None = None
    sha256: str | None = None

    def source(self) -> Source:
        return Source(self.repo, self.revision, self.name or self.path.name, self.sha256 or sha256(self.path))


# Part -> what conversion calls a file ("net", "weights", "config.json") -> the file.
Origins = Mapping[Part, Mapping[str, Origin]]


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
