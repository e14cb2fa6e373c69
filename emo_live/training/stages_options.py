"""Options that several stages share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PackOption = Annotated[Path, typer.Option(help="Data pack: portraits, fitted heads, motion, speech.")]
AnyPackOption = Annotated[Path | None, typer.Option(help="Data pack, whose tracks are used beside those of clips.")]
WorkOption = Annotated[Path, typer.Option(help="Where shards, checkpoints and logs go.")]
WhisperOption = Annotated[Path, typer.Option(help="A published whisper-tiny.en checkpoint (.pt).")]
ShareOption = Annotated[str, typer.Option(help="i/n: the i-th of n processes side by side, from 0.")]
MinutesOption = Annotated[float, typer.Option(help="Wall-clock budget, over all resumes.")]
StepsOption = Annotated[int | None, typer.Option(help="Stop after so many steps at the latest.")]
WORK, BASIS, PRIOR = Path("runs/tiny"), "basis.pt", "prior.npz"  # names in WORK of the two that are not stages
