"""The `emo-live` command: one module a subcommand, heavy imports only inside the subcommand that needs them.

Exit codes: 0; 2 with one line on stderr for bad input and wrong usage; 1 with one line if the engine fails, with a
traceback for a bug; 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, cast

import typer

from emo_live.cli import bench, demo, doctor, enroll, render, serve, train, weights
from emo_live.errors import EmoLiveError, EngineError
from emo_live.hardware import few_heaps

_INTERRUPTED = 130

# The class that all complaints about arguments share; older releases of typer take it from click, newer ones bring it.
_UsageError = cast(type[Exception], typer.BadParameter.__bases__[0])

app = typer.Typer(
    name="emo-live",
    help="Talking avatars from one portrait and speech.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("render")(render.command)
app.command("enroll")(enroll.command)
app.command("demo")(demo.command)
app.command("serve")(serve.command)
app.add_typer(bench.app, name="bench")
app.add_typer(weights.app, name="weights")
app.command("doctor")(doctor.command)
app.command("train", context_settings=train.CONTEXT, add_help_option=False)(train.command)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"emo-live {version('emo-live')}")
    except PackageNotFoundError:
        typer.echo("emo-live (not installed)")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Say which.")
    ] = False,
) -> None:
    """Talking avatars from one portrait and speech."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line (without the program's name; default: the process's own) and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    few_heaps()
    try:
        result = app(arguments or ["--help"], prog_name="emo-live", standalone_mode=False)
    except EngineError as error:
        _complain(str(error))
        return 1
    except EmoLiveError as error:
        return _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):  # newer releases of typer return 130 instead
        result = _INTERRUPTED
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "emo-live"
        format_message = getattr(error, "format_message", error.__str__)
        return _complain(f"{str(format_message()).rstrip('.')} (see: {where} --help)")
    if result == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    return result if isinstance(result, int) else 0


def _complain(message: str) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2
