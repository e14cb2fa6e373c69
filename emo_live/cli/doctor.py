"""`emo-live doctor`: what works on this machine and what to install for the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from emo_live.cli.options import Json
from emo_live.errors import NotSupportedError

if TYPE_CHECKING:
    from emo_live import hardware

_SIGNS = {"ok": "ok", "optional": "-", "broken": "NO"}


def command(as_json: Json = False) -> None:
    """Say what works here and what to install.

    Exit code 2 if rendering cannot work.
    """
    from emo_live import hardware
    from emo_live.cli.diagnosis import diagnose

    checks = diagnose(Path.cwd())
    broken = [check.name for check in checks if check.state == "broken"]
    if as_json:
        report = {"ok": not broken, "machine": hardware.describe(), "checks": [asdict(check) for check in checks]}
        typer.echo(json.dumps(report))
    else:
        _show_machine(hardware.cpu())
        _show([(_SIGNS[check.state], check.name, check.detail, check.remedy) for check in checks])
    if broken:
        raise NotSupportedError(f"rendering cannot work here: {', '.join(broken)}; the list says what to do")


def _show_machine(cpu: hardware.Cpu) -> None:
    typer.echo(
        f"{cpu.model} ({cpu.architecture}): {cpu.usable_cores:g} of {cpu.logical_cores} cores, {cpu.best_precision}"
    )
    typer.echo(f"{' '.join(cpu.features) or 'no known instruction sets'}\n")


def _show(rows: Sequence[tuple[str, str, str, str | None]]) -> None:
    width = max(len(name) for _, name, _, _ in rows)
    for sign, name, detail, remedy in rows:
        typer.echo(f"{sign:<3} {name:<{width}}  {detail}")
        if remedy is not None:
            typer.echo(f"    {'':<{width}}  -> {remedy}")
