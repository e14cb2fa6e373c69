"""`emo-live weights`: the published checkpoints on this machine: list, pull, convert, verify."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from emo_live.cli.options import Json, Quiet
from emo_live.cli.tables import show
from emo_live.errors import BadInputError
from emo_live.types import ModelFolder
from emo_live.weights.catalogue import CATALOGUE, Published
from emo_live.weights.folder import default_root, open_model
from emo_live.weights.manifest import check_name, read_manifest

_LINE_EVERY_S = 5.0

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

Model = Annotated[str, typer.Argument(help=f"One of {', '.join(CATALOGUE)}.", show_default=False)]
Root = Annotated[Path | None, typer.Option(help="Folder of all models ($EMO_LIVE_WEIGHTS_ROOT, or the user's cache).")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the model if it is there.")]
DtypeOption = Annotated[
    Literal["float16", "bfloat16", "float32"] | None,
    typer.Option(help="Of the weights that are written (as published)."),
]


@app.callback()
def command() -> None:
    """Weights of published checkpoints: what there is, download, conversion, checks."""


@app.command("list")
def list_models(root: Root = None, as_json: Json = False) -> None:
    """Show what is known and what is installed, with sizes and licences."""
    from emo_live.weights.verify import models

    root = root or default_root()
    rows = models(root)
    if as_json:
        listed = [{**asdict(row), "path": None if row.path is None else str(row.path)} for row in rows]
        typer.echo(json.dumps({"root": str(root), "models": listed}))
        return
    table = [
        {
            "name": row.name,
            "what": row.title,
            "state": row.state,
            "GB": row.size_bytes / 1e9,
            "licences": ", ".join(row.licences),
        }
        for row in rows
    ]
    show({"root": str(root), "models": table}, as_json=False)
    for row in rows:
        if row.problem is not None:
            typer.echo(f"{row.name}: {row.problem}")


@app.command("pull")
def pull(
    model: Model,
    root: Root = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    dtype: DtypeOption = None,
    taesd: Annotated[bool, typer.Option("--taesd/--no-taesd", help="Also the small, fast picture decoder.")] = True,
    keep_downloads: Annotated[bool, typer.Option("--keep-downloads", help="Keep the files as published, too.")] = False,
    overwrite: Replace = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Download a published checkpoint and convert it. Run it again after an interruption: it goes on."""
    from emo_live.weights.pull import pull as fetch

    made = fetch(
        _published(model),
        root or default_root(),
        revision=revision,
        with_taesd=taesd,
        dtype=dtype,
        overwrite=overwrite,
        keep_downloads=keep_downloads,
        told=None if quiet or as_json else _Lines(),
    )
    _report(made, quiet=quiet, as_json=as_json)


@app.command("convert")
def convert(
    model: Model,
    files: Annotated[
        list[Path],
        typer.Argument(help="The files of the networks (net.pth), or a folder with everything.", show_default=False),
    ],
    sound: Annotated[Path | None, typer.Option(help="Folder of wav2vec2, or whisper's file.")] = None,
    vae: Annotated[Path | None, typer.Option(help="Folder of the VAE (sd-vae-ft-mse).")] = None,
    taesd: Annotated[Path | None, typer.Option(help="Folder of TAESD.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the result (that of the model).")] = None,
    root: Root = None,
    dtype: DtypeOption = None,
    overwrite: Replace = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a model folder from files that you have. Nothing in them is run; nothing is downloaded."""
    from emo_live.weights.convert import convert as make
    from emo_live.weights.local import find_origins

    published, name = _published(model), name or model
    check_name(name)
    origins = find_origins(published, files, sound=sound, vae=vae, taesd=taesd)
    told = None if quiet or as_json else _Lines()
    target = (root or default_root()) / name
    _report(make(published, origins, target, dtype=dtype, overwrite=overwrite, told=told), quiet=quiet, as_json=as_json)


@app.command("verify")
def verify(
    model: Annotated[str, typer.Argument(help="Name or folder of an installed model.", show_default=False)],
    root: Root = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare every file with the sum in the manifest, and the weights with the networks."""
    from emo_live.weights.verify import verify as check

    found = open_model(model, root)
    check(found, None if quiet or as_json else _Lines())
    if as_json:
        typer.echo(json.dumps({"name": found.name, "path": str(found.path), "ok": True}))
    elif not quiet:
        typer.echo(f"{found.path}: every file of {found.name} is as it was made")


def _published(name: str) -> Published:
    if name not in CATALOGUE:
        raise BadInputError(f"no published model is called '{name[:60]}': choose one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def _report(made: ModelFolder, *, quiet: bool, as_json: bool) -> None:
    manifest = read_manifest(made.path)
    if as_json:
        typer.echo(json.dumps({"name": made.name, "path": str(made.path), "notes": list(manifest.notes)}))
    elif not quiet:
        typer.echo(f"{made.path}: {made.name}, {sum(file.bytes for file in manifest.files.values()) / 1e9:.2f} GB")
        for note in manifest.notes:
            typer.echo(f"note: {note}")


class _Lines:
    """What is being done and how far it is, on stderr, every few seconds."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + _LINE_EVERY_S

    def __call__(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LINE_EVERY_S
            typer.echo(f"{what}: {done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB", err=True)
