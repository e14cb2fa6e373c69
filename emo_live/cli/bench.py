"""`emo-live bench`: how fast this machine renders; its subcommands measure what is live."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from emo_live.cli import bench_models
from emo_live.cli.options import Json
from emo_live.cli.progress import reporting
from emo_live.cli.tables import show
from emo_live.errors import NotSupportedError

app = typer.Typer(rich_markup_mode=None)
app.command("models")(bench_models.models)
app.command("gpu")(bench_models.gpu)


@app.callback(invoke_without_command=True)
def command(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(help="Length of the speech that is rendered, in seconds.", min=1.0)] = 10.0,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine renders, stage by stage and end to end."""
    if context.invoked_subcommand is not None:
        return
    from emo_live.bench import measure

    with reporting(quiet=as_json) as progress:
        report: dict[str, Any] = measure(seconds=seconds, progress=progress).as_dict()
    show(report, as_json=as_json)


@app.command("browser")
def browser(
    seconds: Annotated[float, typer.Option(help="How long the speaking avatar is watched.", min=10.0)] = 60.0,
    size: Annotated[int, typer.Option(help="Side of the picture in px: 256 or 512.")] = 512,
    loss: Annotated[float, typer.Option(help="Also with so many percent of packets lost.", min=0.0, max=50.0)] = 0.0,
    busy: Annotated[int, typer.Option(help="Also with so many other processes at work.", min=0, max=64)] = 0,
    as_json: Json = False,
) -> None:
    """Measure what a viewer in Chromium gets: offset of sound and picture, evenness of the pictures, use of the CPU."""
    try:
        from emo_live_server.browser_bench.run import measure
    except ModuleNotFoundError:
        raise NotSupportedError('this needs the server: pip install "emo-live[server]" playwright') from None

    def tell(watched: str) -> None:
        if not as_json:
            typer.echo(f"watching {watched}", err=True)

    report = measure(seconds=seconds, size=size, loss_percent=loss, busy=busy, progress=tell)
    show(report.as_dict(), as_json=as_json)


@app.command("rtc")
def rtc(
    seconds: Annotated[float, typer.Option(help="Video that each encoder is given, in seconds.", min=2.0)] = 10.0,
    size: Annotated[int, typer.Option(help="Side of the picture in px.", min=64, max=896)] = 512,
    as_json: Json = False,
) -> None:
    """Measure what encoding a picture for WebRTC costs, with our encoders and with aiortc's own."""
    try:
        from emo_live.transport.rtc_bench import measure
    except ModuleNotFoundError:
        raise NotSupportedError('this needs the server: pip install "emo-live[server]"') from None
    with reporting(quiet=as_json) as progress:
        report = measure(seconds=seconds, size=size, progress=progress)
    show(report.as_dict(), as_json=as_json)


@app.command("live")
def live(
    turns: Annotated[int, typer.Option(help="Utterances and interrupts of each kind.", min=1)] = 10,
    size: Annotated[int, typer.Option(help="Side of the picture in px: 256 or 512.")] = 512,
    threads: Annotated[int | None, typer.Option(help="Inference threads.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Measure a live session: first frames, interrupts, even pace, CPU and memory, and a dead engine's replacement."""
    import asyncio

    from emo_live.bench_live import measure

    with reporting(quiet=as_json) as progress:
        report = asyncio.run(measure(turns=turns, size=size, threads=threads, progress=progress))
    show(report.as_dict(), as_json=as_json)
