"""Makes a model folder from files: everything is checked, then written beside the target, then renamed.

Whatever goes wrong on the way (bad files, a full disk, Ctrl-C), there is no folder, or the old one. Blocking; takes
about a minute for 5 GB, most of it for reading, writing and sums. Memory holds a tensor at a time.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from emo_live.config import EmoConfig
from emo_live.errors import BadInputError
from emo_live.types import ModelFolder
from emo_live.weights.catalogue import Published
from emo_live.weights.extra import require_extra
from emo_live.weights.folder import open_model
from emo_live.weights.manifest import FORMAT, FileEntry, Manifest, check_name, write_manifest
from emo_live.weights.origin import Origins, sha256
from emo_live.weights.plans import Plan, plan_emo, plan_whisper
from emo_live.weights.writing import size_bytes, write_tensors

Dtype = Literal["float16", "bfloat16", "float32"]
# What is done, bytes done, bytes in total.
Told = Callable[[str, int, int], None]
Counted = Callable[[str, int], None]  # which file, and how many more bytes are in it

_SPARE_BYTES = 100_000_000


def convert(
    published: Published,
    origins: Origins,
    target: Path,
    *,
    config: EmoConfig | None = None,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    told: Told | None = None,
) -> ModelFolder:
    """Make the model folder `target` from the files in `origins`, which needs "emo", "sound" and "vae".

    config: of the networks, the published one if None. dtype: of the EMO networks' weights, as published if None.
    Raises BadInputError with what is wrong with which file; NotSupportedError without the extra `gpu`.
    """
    require_extra()
    check_target(target, overwrite=overwrite)
    config = config or published.config()
    plans = make_plans(published, config, origins, dtype)
    total = sum(size_bytes(plan.tensors) for plan in plans if plan.tensors is not None)
    check_space(target.parent, total)
    remove_leftovers(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        _write(part, target.name, published, config, plans, _counted(told, total))
        _put_in_place(part, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInputError(f"'{target}' cannot be written ({reason}): make room or choose another --root") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return open_model(target)


def make_plans(published: Published, config: EmoConfig, origins: Origins, dtype: Dtype | None) -> list[Plan]:
    """Read and check names, shapes and dtypes of all files."""
    from emo_live.weights.library_plans import plan_taesd, plan_vae, plan_wav2vec

    plan_sound = plan_whisper if published.model == "echomimic" else plan_wav2vec
    plans = [plan_emo(published.name, config, origins["emo"], dtype)]
    plans += plan_sound(config, origins["sound"])
    plans += plan_vae(config, origins["vae"])
    if "taesd" in origins:
        plans += plan_taesd(config, origins["taesd"])
    return plans


def check_target(target: Path, *, overwrite: bool) -> None:
    check_name(target.name)
    if target.exists() and not overwrite:
        raise BadInputError(f"'{target}' exists already: allow replacing it (--overwrite), or choose another --root")
    if target.exists() and not target.is_dir():
        raise BadInputError(f"'{target}' is a file: choose another --root")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise BadInputError unless the disk of `folder`, which need not exist yet, has room."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        raise BadInputError(
            f"{(needed_bytes + _SPARE_BYTES) / 1e9:.1f} GB are needed in '{folder}', {free_bytes / 1e9:.1f} GB are "
            "free: make room or choose another --root"
        )


def remove_leftovers(target: Path) -> None:
    """What conversions of this target left that were killed outright."""
    for path in target.parent.glob(f".{target.name}.*.part"):
        owner = path.name.removeprefix(f".{target.name}.").split(".")[0]
        if owner.isdigit() and int(owner) != os.getpid() and not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _write(
    folder: Path, name: str, published: Published, config: EmoConfig, plans: list[Plan], written: Counted
) -> None:
    files: dict[str, FileEntry] = {}
    for plan in plans:
        path = folder / plan.name
        path.parent.mkdir(exist_ok=True)
        if plan.tensors is not None:
            digest = write_tensors(path, plan.tensors, partial(written, plan.name))
        else:
            path.write_text((plan.text or "") + "\n", encoding="utf-8")
            digest = sha256(path)
        sources = tuple(origin.source() for origin in plan.origins)
        licence = published.parts[plan.part].licence
        files[plan.name] = FileEntry(digest, path.stat().st_size, sources, licence)
    notes = (*published.notes, *(note for plan in plans for note in plan.notes))
    write_manifest(folder, Manifest(FORMAT, name, published.model, config, files, notes))


def _counted(told: Told | None, total: int) -> Counted:
    done = 0

    def written(file: str, more: int) -> None:
        nonlocal done
        done += more
        if told is not None:
            told(f"writing {file}", done, total)

    return written


def _put_in_place(part: Path, target: Path) -> None:
    """Rename; an old folder makes way only then, and comes back if the new one cannot take its place."""
    if not target.exists():
        part.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
