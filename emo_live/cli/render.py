"""`emo-live render`: a portrait and a speech file become a video file. Also carries out what `demo` asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from emo_live.cli.options import (
    AttentionKernel,
    Compile,
    Device,
    Dtype,
    Guidance,
    Json,
    LargestFace,
    Overwrite,
    Quiet,
    Sampler,
    Vae,
    Weights,
)
from emo_live.cli.progress import reporting

if TYPE_CHECKING:
    from emo_live.render import RenderOptions

# What ends the command besides Ctrl-C; a shell reports 128 + the number.
_ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]

T = TypeVar("T")


def command(
    portrait: Annotated[Path, typer.Option(help="A picture with one face, or an avatar file made by enroll.")],
    audio: Annotated[Path, typer.Option(help="The speech: any audio file, or a video whose sound is used.")],
    out: Annotated[Path, typer.Option(help="The video to write: .mp4 (H.264, AAC) or .webm (VP9, Opus).")],
    size: Annotated[
        int, typer.Option(help="Side of the square video in px: 256 or 512; any multiple of 64 with hallo.")
    ] = 512,
    full_frame: Annotated[bool, typer.Option("--full-frame", help="Keep the whole picture around the face.")] = False,
    speed: Annotated[
        float | None,
        typer.Option(help="How fast the head moves: 0 to 30 degrees a second (default: the model's usual)."),
    ] = None,
    motion: Annotated[float, typer.Option(help="Strength of head motion: 0 to 2, 1 as generated.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, another performance.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps: 1 to 8, of published weights to 100 (default: their usual).")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="tiny; with published weights hallo, hallo2, joyhallo, echomimic, echomimic-acc.")
    ] = "tiny",
    weights: Weights = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    vae: Vae = None,
    dtype: Dtype = None,
    attention: AttentionKernel = None,
    compile: Compile = None,
    device: Device = None,
    overwrite: Overwrite = False,
    largest_face: LargestFace = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn a portrait and a speech file into a talking video."""
    from emo_live.engine.published import chosen_engine
    from emo_live.render import RenderOptions

    options = RenderOptions(
        size=size,
        full_frame=full_frame,
        speed=speed,
        motion=motion,
        seed=seed,
        steps=steps,
        overwrite=overwrite,
        largest_face=largest_face,
        engine=chosen_engine(
            engine,
            weights=weights,
            guidance=guidance,
            sampler=sampler,
            vae=vae,
            dtype=dtype,
            attention=attention,
            compile=compile,
            device=device,
        ),
    )
    carry_out(portrait, audio, out, options, quiet=quiet, as_json=as_json)


def carry_out(portrait: Path, audio: Path, out: Path, options: RenderOptions, *, quiet: bool, as_json: bool) -> None:
    """Render, show the progress and print the outcome. Raises EmoLiveError; Ctrl-C and SIGTERM leave no file."""
    from emo_live.render import render

    with reporting(quiet=quiet or as_json) as progress:
        result = run_until_stopped(render(portrait, audio, out, options, progress=progress))
    if as_json:
        outcome = {**asdict(result), "path": str(result.path.absolute()), "size": options.size, "seed": options.seed}
        typer.echo(json.dumps(outcome))
        return
    if result.damage is not None:
        typer.echo(f"warning: {result.damage}", err=True)
    if not quiet:
        typer.echo(
            f"{result.path.absolute()}: {result.duration_s:.1f} s of video in {result.elapsed_s:.1f} s, "
            f"{result.times_real_time:.2f} times real time (first frame after {result.first_frame_s:.1f} s)"
        )


def run_until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; Ctrl-C and the signals that end a process cancel it and let it tidy up before this raises."""
    received: list[int] = []

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None, "asyncio.run makes a task"

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in _ENDING:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise typer.Exit(128 + received[0] if received else 1) from None
