"""`emo-live demo`: the bundled portrait speaks the bundled greeting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emo_live import samples
from emo_live.cli.options import Json, Overwrite, Quiet
from emo_live.cli.render import carry_out


def command(
    out: Annotated[Path, typer.Option(help="The video to write: .mp4 or .webm.")] = Path("demo.mp4"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let the bundled portrait speak the bundled greeting."""
    from emo_live.render import RenderOptions

    options = RenderOptions(overwrite=overwrite)
    carry_out(samples.portrait(), samples.greeting(), out, options, quiet=quiet, as_json=as_json)
