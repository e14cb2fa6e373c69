"""Finds the files of a model among those that a user has: single files, folders of single parts, or a whole copy of the
published repository. Knows the names that the publishers use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from emo_live.errors import BadInputError
from emo_live.weights.catalogue import Part, Published
from emo_live.weights.folder import DIFFUSERS
from emo_live.weights.origin import Origin, Origins

# Where published copies keep a part, below their top folder.
_WAV2VEC_FOLDERS = ("wav2vec/wav2vec2-base-960h", "wav2vec2-base-960h", "sound")
_CHINESE_FOLDERS = ("chinese-wav2vec2-base", "wav2vec/chinese-wav2vec2-base", "sound")
_WHISPER_FILES = ("audio_processor/whisper_tiny.pt", "whisper_tiny.pt", "tiny.pt", "encoder.safetensors")
_WAV2VEC_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_DIFFUSERS_WEIGHTS = (DIFFUSERS[1], "diffusion_pytorch_model.bin")
_VAE_FOLDERS = ("sd-vae-ft-mse", "vae")
_TAESD_FOLDERS = ("taesd",)
_ENDINGS = (".pth", ".safetensors", ".pt", ".bin", ".ckpt")


def find_origins(
    published: Published,
    given: Sequence[Path],
    *,
    sound: Path | None = None,
    vae: Path | None = None,
    taesd: Path | None = None,
) -> Origins:
    """given: files of the EMO networks, or one folder to look in for everything. The others name folders (or, for
    whisper, a file) of single parts. Raises BadInputError, which says what is missing and where it was looked for."""
    for path in (*given, *(path for path in (sound, vae, taesd) if path is not None)):
        if not path.exists():
            raise BadInputError(f"'{path}' does not exist: give a file or folder that does")
    folders = [path for path in given if path.is_dir()]
    files = [path for path in given if not path.is_dir()]
    found: dict[Part, Mapping[str, Origin]] = {"emo": _emo(published, folders, files)}
    found["sound"] = _sound(published, sound, folders)
    if vae is None and (vae := _first_dir(folders, _VAE_FOLDERS)) is None:
        raise BadInputError(_lacking("the VAE", "--vae FOLDER", published.parts["vae"].repo))
    found["vae"] = _network(vae, _DIFFUSERS_WEIGHTS)
    if taesd is not None or (taesd := _first_dir(folders, _TAESD_FOLDERS)) is not None:
        found["taesd"] = _network(taesd, _DIFFUSERS_WEIGHTS)
    return found


def _emo(published: Published, folders: list[Path], files: list[Path]) -> dict[str, Origin]:
    wanted = published.parts["emo"].files
    if len(wanted) == 1 and len(files) == 1 and not folders:
        return {name: Origin(files[0]) for name in wanted}
    found: dict[str, Origin] = {}
    for name, published_path in wanted.items():
        stem = Path(published_path).with_suffix("")
        places = [folder / base for folder in folders for base in (stem, Path(published.name) / stem.name, stem.name)]
        paths = [place.with_name(place.name + ending) for place in places for ending in _ENDINGS]
        named = [path for path in files if path.stem in (stem.name, name)]
        if hit := next((path for path in (*named, *paths) if path.is_file()), None):
            found[name] = Origin(hit)
    missing = [Path(wanted[name]).name for name in wanted if name not in found]
    if missing:
        raise BadInputError(
            f"{published.name} is made from {_listed(Path(path).name for path in wanted.values())}; not found: "
            f"{_listed(missing)}. Give the files, or the folder they are in"
        )
    if strange := [path for path in files if path not in {origin.path for origin in found.values()}]:
        raise BadInputError(f"'{strange[0]}' is no part of {published.name}, going by its name: leave it out")
    return found


def _sound(published: Published, named: Path | None, folders: list[Path]) -> dict[str, Origin]:
    repo = published.parts["sound"].repo
    if published.model == "echomimic":
        tops = folders if named is None else [named]
        paths = [named] if named is not None and named.is_file() else []
        paths += [top / name for top in tops for name in (*_WHISPER_FILES, *(Path(f).name for f in _WHISPER_FILES))]
        if hit := next((path for path in paths if path.is_file()), None):
            return {"weights": Origin(hit)}
        raise BadInputError(_lacking("whisper tiny (whisper_tiny.pt)", "--sound FILE", repo))
    if named is not None:
        return _network(named, _WAV2VEC_WEIGHTS)
    names = _CHINESE_FOLDERS if published.model == "joyhallo" else _WAV2VEC_FOLDERS
    if place := _first_dir(folders, names):
        return _network(place, _WAV2VEC_WEIGHTS)
    raise BadInputError(_lacking("wav2vec2", "--sound FOLDER", repo))


def _network(folder: Path, weights: tuple[str, ...]) -> dict[str, Origin]:
    """config.json and weights of a library's folder."""
    if not folder.is_dir():
        raise BadInputError(f"'{folder}' is a file: give the folder with config.json and {weights[0]}")
    hit = next((folder / name for name in weights if (folder / name).is_file()), None)
    if hit is None or not (folder / "config.json").is_file():
        raise BadInputError(f"'{folder}' lacks config.json or {' / '.join(weights)}: give the published folder, whole")
    return {"config.json": Origin(folder / "config.json"), "weights": Origin(hit)}


def _first_dir(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    return next((folder / name for folder in folders for name in names if (folder / name).is_dir()), None)


def _lacking(what: str, option: str, repo: str) -> str:
    return f"{what} was not found: give it with {option} (published as {repo})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
