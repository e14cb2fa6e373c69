"""Prints a report: one JSON object for scripts, or tables and lines for people. The report decides which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

_WIDTH_OFF_TERMINAL = 120


def show(report: Mapping[str, Any], *, as_json: bool) -> None:
    """One JSON object, or tables."""
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    """Lists of rows become tables, mappings become lines; the report decides which and how many there are."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OFF_TERMINAL)
    for title, part in report.items():
        if isinstance(part, Mapping):
            for line in _lines(part):
                console.print(line, markup=False, highlight=False)
        elif isinstance(part, Sequence) and not isinstance(part, str):
            console.print(_table(title.replace("_", " "), part))
        else:
            console.print(f"{title.replace('_', ' ')}: {_text(part)}", markup=False, highlight=False)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        numbers = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in columns))
    return table


def _lines(part: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in part.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            lines += _lines(value, f"{label} ")
        else:
            lines.append(f"{label}: {_text(value)}")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value)) or "-"
    return str(value)
