"""`emo-live demo`: the bundled portrait speaks the bundled greeting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emo_live.cli.assets import ASSETS
from emo_live.cli.options import Json, Overwrite, Quiet
from emo_live.cli.render import carry_out
from emo_live.errors import NotSupportedError

PORTRAIT = "portraits/*.jpg"
GREETING = "speech/greeting.*"


def command(
    out: Annotated[Path, typer.Option(help="The video to write: .mp4 or .webm.")] = Path("demo.mp4"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let the bundled portrait speak the bundled greeting."""
    from emo_live.render import RenderOptions

    options = RenderOptions(overwrite=overwrite)
    carry_out(bundled(PORTRAIT), bundled(GREETING), out, options, quiet=quiet, as_json=as_json)


def bundled(pattern: str) -> Path:
    """The first bundled file that fits the pattern; a broken installation lacks it."""
    found = sorted(ASSETS.glob(pattern))
    if not found:
        raise NotSupportedError(f"this installation has no {pattern} in {ASSETS}: install emo-live again")
    return found[0]
