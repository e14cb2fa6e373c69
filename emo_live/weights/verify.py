"""Looks at model folders: which are there, and whether one still is what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emo_live.errors import BadInputError
from emo_live.types import ModelFolder
from emo_live.weights.catalogue import CATALOGUE
from emo_live.weights.convert import Told
from emo_live.weights.extra import require_extra
from emo_live.weights.folder import open_model
from emo_live.weights.manifest import MANIFEST, read_manifest
from emo_live.weights.origin import Origin, sha256

State = Literal["installed", "damaged", "not installed"]


@dataclass(frozen=True, slots=True)
class Row:
    """A model of the list. size_bytes: on disk if it is installed, else of the download. problem: why it is damaged."""

    name: str
    title: str
    state: State
    size_bytes: int
    licences: tuple[str, ...]
    path: Path | None
    problem: str | None


def models(root: Path) -> list[Row]:
    """Everything in the catalogue, and whatever else lies in `root`. Never raises for what is wrong with a folder."""
    names = [*CATALOGUE, *sorted(_others(root))]
    return [_row(name, root / name) for name in names]


def _others(root: Path) -> set[str]:
    if not root.is_dir():
        return set()
    found = {path.name for path in root.iterdir() if (path / MANIFEST).is_file()}
    return {name for name in found if not name.startswith(".")} - set(CATALOGUE)


def _row(name: str, path: Path) -> Row:
    published = CATALOGUE.get(name)
    title = published.title if published is not None else "your own"
    if not path.exists():
        assert published is not None, "folders that are not in the catalogue were found on the disk"
        licences = tuple(dict.fromkeys(part.licence for part in published.parts.values()))
        return Row(name, title, "not installed", published.size_bytes, licences, None, None)
    try:
        manifest = read_manifest(path)
        open_model(path)
    except BadInputError as error:
        return Row(name, title, "damaged", 0, (), path, str(error))
    licences = tuple(dict.fromkeys(entry.licence for entry in manifest.files.values()))
    size_bytes = sum(entry.bytes for entry in manifest.files.values())
    return Row(name, title, "installed", size_bytes, licences, path, None)


def verify(model: ModelFolder, told: Told | None = None) -> None:
    """Compare every file with its sum, and the tensors with the networks of the config. Raises BadInputError."""
    require_extra()
    manifest = read_manifest(model.path)
    total = sum(entry.bytes for entry in manifest.files.values())
    done = 0
    for name, entry in manifest.files.items():
        if sha256(model.path / name) != entry.sha256:
            raise BadInputError(f"'{model.path / name}' was altered or is damaged: pull or convert the weights again")
        done += entry.bytes
        if told is not None:
            told(f"checking {name}", done, total)
    _check_networks(model)


def _check_networks(model: ModelFolder) -> None:
    """The very checks of a conversion, with the folder's own files as the source."""
    from emo_live.weights.library_plans import plan_taesd, plan_vae, plan_wav2vec
    from emo_live.weights.plans import plan_emo, plan_whisper

    plan_emo(model.name, model.config, {"net": Origin(model.emo)}, None)
    if model.model == "echomimic":
        plan_whisper(model.config, {"weights": Origin(model.sound / "encoder.safetensors")})
    else:
        plan_wav2vec(model.config, _network(model.sound, "model.safetensors"))
    plan_vae(model.config, _network(model.vae, "diffusion_pytorch_model.safetensors"))
    if model.taesd is not None:
        plan_taesd(model.config, _network(model.taesd, "diffusion_pytorch_model.safetensors"))


def _network(folder: Path, weights: str) -> Mapping[str, Origin]:
    return {"config.json": Origin(folder / "config.json"), "weights": Origin(folder / weights)}
