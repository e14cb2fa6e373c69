"""Where model folders lie and how one is opened. Reads names, sizes and the manifest only: no torch, no weights.

* manifest.json: manifest.py
* emo.safetensors: state dict of LatentEmo(config)
* sound/: transformers' wav2vec2 folder, or encoder.safetensors (whisper, OpenAI's names) with config.json
* vae/: diffusers' AutoencoderKL folder
* taesd/: diffusers' AutoencoderTiny folder; optional
"""

from __future__ import annotations

import os
from pathlib import Path

from emo_live.errors import BadInputError
from emo_live.folders import cache_folder
from emo_live.types import ModelFolder
from emo_live.weights.manifest import MANIFEST, Manifest, read_manifest

ROOT_VARIABLE = "EMO_LIVE_WEIGHTS_ROOT"  # EMO_LIVE_WEIGHTS is the setting of a server
EMO = "emo.safetensors"
DIFFUSERS = ("config.json", "diffusion_pytorch_model.safetensors")
WAV2VEC = ("config.json", "model.safetensors")
WHISPER = ("config.json", "encoder.safetensors")


def default_root() -> Path:
    """$EMO_LIVE_WEIGHTS_ROOT, else `weights` in this user's cache folder of emo_live."""
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).expanduser() if named else cache_folder() / "weights"


def open_model(name_or_path: str | Path, root: Path | None = None) -> ModelFolder:
    """Find a model by its name below `root` (default_root() if None), or by the path of its folder.

    Files are checked for being there, inside the folder and of the listed size; `verify` compares their content.
    Raises BadInputError, which names the command to run.
    """
    path = _located(name_or_path, root)
    try:
        manifest = read_manifest(path)
        check_files(path, manifest)
    except BadInputError as error:
        raise BadInputError(f"{error}: pull or convert the weights again (emo-live weights --help)") from error
    has_taesd = any(name.startswith("taesd/") for name in manifest.files)
    return ModelFolder(
        name=manifest.name,
        model=manifest.model,
        config=manifest.config,
        path=path,
        emo=path / EMO,
        sound=path / "sound",
        vae=path / "vae",
        taesd=path / "taesd" if has_taesd else None,
    )


def expected_files(manifest: Manifest) -> set[str]:
    """Without which a folder of this model is not complete."""
    sound = WHISPER if manifest.model == "echomimic" else WAV2VEC
    parts = {"vae": DIFFUSERS, "sound": sound}
    if any(name.startswith("taesd/") for name in manifest.files):
        parts["taesd"] = DIFFUSERS
    return {EMO, *(f"{part}/{name}" for part, names in parts.items() for name in names)}


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise BadInputError unless the folder holds what the manifest lists, at its size, and nothing else."""
    if missing := sorted(expected_files(manifest) - set(manifest.files)):
        raise BadInputError(f"the manifest of '{folder}' does not list {', '.join(missing)}")
    home = folder.resolve()
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(home):
            raise BadInputError(f"'{path}' is a link that leads out of its folder")
        if not path.is_file():
            raise BadInputError(f"'{path}' is missing")
        if (size_bytes := path.stat().st_size) != entry.bytes:
            raise BadInputError(f"'{path}' has {size_bytes} bytes, {entry.bytes} are listed")
    if strange := unlisted(folder, manifest):
        raise BadInputError(f"'{folder}' holds files that its manifest does not list ({', '.join(strange[:3])})")


def unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """Files that are not the manifest's. Libraries load some names on their own, so none may be smuggled in."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in found if not path.name.startswith("."))
    return sorted(name for name in names if name != MANIFEST and name not in manifest.files)


def _located(name_or_path: str | Path, root: Path | None) -> Path:
    root = root or default_root()
    text = str(name_or_path)
    plain = isinstance(name_or_path, str) and Path(text).name == text
    if plain and (root / text / MANIFEST).is_file():
        return root / text
    path = Path(name_or_path).expanduser()
    if (path / MANIFEST).is_file():
        return path
    if not plain:
        raise BadInputError(
            f"'{path}' is no model folder (it has no {MANIFEST}): make one with `emo-live weights convert`"
        )
    raise BadInputError(_not_installed(text, root))


def _not_installed(name: str, root: Path) -> str:
    from emo_live.weights.catalogue import CATALOGUE

    if name in CATALOGUE:
        return (
            f"the weights of {name} are not in '{root}': run `emo-live weights pull {name}`, or "
            f"`emo-live weights convert {name} ...` with files that you have"
        )
    return f"no model is called '{name[:60]}': give a folder, or one of {', '.join(CATALOGUE)}"
