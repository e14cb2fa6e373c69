"""Downloads a published checkpoint and converts it. Blocking; an interrupted download goes on where it stopped.

Downloads lie in `.downloads` beside the models until the model folder is complete, and are removed then.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from emo_live.errors import BadInputError
from emo_live.types import ModelFolder
from emo_live.weights.catalogue import Part, Published
from emo_live.weights.convert import Dtype, Told, check_space, check_target, convert
from emo_live.weights.extra import require_extra
from emo_live.weights.hub import Hub, HuggingFaceHub, Listing, RemoteFile
from emo_live.weights.origin import Origin, sha256

DOWNLOADS = ".downloads"
_PART = ".part"


def pull(
    published: Published,
    root: Path,
    *,
    hub: Hub | None = None,
    revision: str | None = None,
    with_taesd: bool = True,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    keep_downloads: bool = False,
    told: Told | None = None,
) -> ModelFolder:
    """Make `root / published.name`. revision: of the repository of the networks themselves; newest if None.

    Raises BadInputError (hub out of reach, disk too small, a file that is not what the hub lists, ...).
    """
    require_extra("huggingface_hub")
    target = root / published.name
    check_target(target, overwrite=overwrite)
    hub = hub or HuggingFaceHub()
    parts = {part: download for part, download in published.parts.items() if part != "taesd" or with_taesd}
    main = published.parts["emo"].repo
    repos = dict.fromkeys(download.repo for download in parts.values())
    listings = {repo: hub.listing(repo, revision if repo == main else None) for repo in repos}
    folder = root / DOWNLOADS
    wanted = {
        (download.repo, path): _listed(listings[download.repo], download.repo, path)
        for download in parts.values()
        for path in download.files.values()
    }
    _check_room(folder, listings, wanted)
    fetched: dict[tuple[str, str], Origin] = {}
    total = sum(file.size_bytes for file in wanted.values())
    done = 0
    for (repo, path), file in wanted.items():
        fetched[repo, path] = _fetch(hub, repo, listings[repo].commit, path, file, folder, told, done, total)
        done += file.size_bytes
    origins: dict[Part, Mapping[str, Origin]] = {
        part: {name: fetched[download.repo, path] for name, path in download.files.items()}
        for part, download in parts.items()
    }
    model = convert(published, origins, target, dtype=dtype, overwrite=overwrite, told=told)
    if not keep_downloads:
        for repo in repos:
            shutil.rmtree(folder / _folder_name(repo), ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    return model


def _listed(listing: Listing, repo: str, path: str) -> RemoteFile:
    if path not in listing.files:
        raise BadInputError(f"{repo} no longer holds {path}: a --revision of before may; its page lists them")
    return listing.files[path]


def _check_room(folder: Path, listings: Mapping[str, Listing], wanted: Mapping[tuple[str, str], RemoteFile]) -> None:
    """Room for what is still to come, and for the model that is made of it."""
    total = sum(file.size_bytes for file in wanted.values())
    here = sum(_have_bytes(_place(folder, repo, listings[repo].commit, path)) for repo, path in wanted)
    check_space(folder.parent, 2 * total - here)


def _fetch(
    hub: Hub,
    repo: str,
    commit: str,
    path: str,
    file: RemoteFile,
    folder: Path,
    told: Told | None,
    before: int,
    total: int,
) -> Origin:
    place = _place(folder, repo, commit, path)
    part = place.with_name(place.name + _PART)
    try:
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as stream:
                here = stream.tell()
                if here < file.size_bytes:
                    for block in hub.blocks(repo, commit, path, here, file.size_bytes):
                        stream.write(block)
                        here += len(block)
                        if told is not None:
                            told(f"downloading {path}", before + here, total)
            digest = _checked(part, repo, path, file)
            part.rename(place)
        else:
            digest = _checked(place, repo, path, file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInputError(f"'{folder}' cannot be written ({reason}): make room or choose another --root") from error
    return Origin(place, repo, commit, path, digest)


def _checked(here: Path, repo: str, path: str, file: RemoteFile) -> str:
    """The sum of a downloaded file; a file that is not what the hub lists is removed."""
    digest, size_bytes = sha256(here), here.stat().st_size
    if size_bytes != file.size_bytes or file.sha256 not in (None, digest):
        here.unlink()
        raise BadInputError(f"{path} of {repo} arrived damaged and was removed: run the command again")
    return digest


def _place(folder: Path, repo: str, commit: str, path: str) -> Path:
    return folder / _folder_name(repo) / _plain(commit) / _plain(path)


def _folder_name(repo: str) -> str:
    return _plain(repo)


def _plain(name: str) -> str:
    """One name of a file for a path, which cannot lead anywhere."""
    return name.replace("/", "--").replace("\\", "--").replace("..", "--")


def _have_bytes(place: Path) -> int:
    for path in (place, place.with_name(place.name + _PART)):
        if path.is_file():
            return path.stat().st_size
    return 0
