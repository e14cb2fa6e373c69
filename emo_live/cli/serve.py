"""`emo-live serve`: the server with its page, for a browser on this machine or, with a key, for others."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from emo_live.cli.options import AttentionKernel, Compile, Device, Dtype, Guidance, Quiet, Sampler, Vae, Weights
from emo_live.errors import NotSupportedError

_NEEDED = ("fastapi", "uvicorn", "pydantic_settings", "aiortc", "websockets")
_INTERRUPTED = 130


def command(
    host: Annotated[str | None, typer.Option(help="Where to listen (127.0.0.1: this machine only).")] = None,
    port: Annotated[int | None, typer.Option(help="The port (8000); 0 takes a free one.")] = None,
    portrait: Annotated[Path | None, typer.Option(help="The face to show: a picture or an avatar file.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.", envvar="EMO_LIVE_CONFIG")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the pictures in px: 256 or 512.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="tiny; hallo and others with published weights; or pattern: flash and beep.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps (the engine's usual).")] = None,
    weights: Weights = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    vae: Vae = None,
    dtype: Dtype = None,
    attention: AttentionKernel = None,
    compile: Compile = None,
    device: Device = None,
    max_sessions: Annotated[int | None, typer.Option(help="How many faces at a time (what the machine can).")] = None,
    greet: Annotated[bool | None, typer.Option("--greet/--no-greet", help="Say hello on the page.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser when it is ready.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve live avatars: a page, WHEP, a WebSocket.

    Settings also come from EMO_LIVE_* in the environment and from a TOML file; see docs/server.md.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise NotSupportedError('the server is an extra: pip install "emo-live[server]"')
    from emo_live_server import logs
    from emo_live_server.app import create_app
    from emo_live_server.run import serve
    from emo_live_server.settings import load

    settings = load(
        config,
        host=host,
        port=port,
        portrait=portrait,
        size=size,
        engine=engine,
        steps=steps,
        weights=weights,
        guidance=guidance,
        sampler=sampler,
        vae=vae,
        dtype=dtype,
        attention=attention,
        compile=compile,
        device=device,
        max_sessions=max_sessions,
        greet=greet,
    )
    # Whoever starts it by hand wants to see the address, not every request.
    usual = "warning" if quiet or sys.stderr.isatty() else "info"
    logs.configure(settings.log_level or usual)
    app = create_app(settings)

    def started(address: str) -> None:
        if not quiet:
            typer.echo(f"{address}  (Ctrl-C ends it)")
            if not settings.loopback and settings.tls_certificate is None:
                typer.echo("browsers give the microphone to https pages only: see tls_certificate, or use a proxy")
        if open_page and not webbrowser.open(address) and not quiet:
            typer.echo("no browser was found here: open the address in one")

    if asyncio.run(serve(app, settings, started)):
        raise typer.Exit(_INTERRUPTED)
