"""`emo-live enroll`: finds the face in a picture and writes the prepared avatar file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from emo_live.cli.options import Json, LargestFace, Overwrite


def command(
    picture: Annotated[Path, typer.Argument(help="A picture with one face.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The avatar file (default: beside the picture, .avatar).")] = None,
    largest_face: LargestFace = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a prepared portrait as an avatar file."""
    from emo_live.avatar import Avatar

    avatar = Avatar.prepare(picture, largest_face=largest_face)
    path = out if out is not None else picture.with_suffix(".avatar")
    avatar.save(path, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({"path": str(path.absolute()), "id": avatar.id}))
    else:
        typer.echo(f"{path.absolute()}: avatar {avatar.id}")
