"""Shows how far a long call is, on stderr: a bar on a terminal, a line every ten seconds elsewhere, nothing if quiet.

The callbacks may come from any thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from emo_live.types import FPS, Progress, ProgressCallback

_LINE_EVERY_S = 10.0
_STAGES = {"prepare": "preparing", "render": "rendering", "finish": "finishing"}


@contextmanager
def reporting(*, quiet: bool) -> Iterator[ProgressCallback | None]:
    """Give the callback to pass on; None if quiet. On leaving, a bar is wiped away."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as callback:
            yield callback
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[clock]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(_STAGES["prepare"], total=None, clock="")

        def show(progress: Progress) -> None:
            description = _STAGES.get(progress.stage, progress.stage)
            bars.update(
                task, description=description, completed=progress.done, total=progress.total, clock=_clock(progress)
            )

        yield show


class _Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + _LINE_EVERY_S

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LINE_EVERY_S
            typer.echo(f"{_STAGES.get(progress.stage, progress.stage)}: {_clock(progress)}", err=True)


def _clock(progress: Progress) -> str:
    done = f"{progress.done / FPS:.1f}"
    return f"{done} s" if progress.total is None else f"{done} of {progress.total / FPS:.1f} s"
