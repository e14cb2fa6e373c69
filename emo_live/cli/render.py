"""`emo-live render`: a portrait and a speech file become a video file. Also carries out what `demo` asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from emo_live.cli.options import Json, LargestFace, Overwrite, Quiet
from emo_live.cli.progress import reporting
from emo_live.errors import BadInputError

if TYPE_CHECKING:
    from emo_live.render import RenderOptions, RenderResult

SIZES = (256, 512)
_TERMINATED = 128 + 15  # what a shell reports for a process ended by SIGTERM

T = TypeVar("T")


def command(
    portrait: Annotated[Path, typer.Option(help="A picture with one face, or an avatar file made by enroll.")],
    audio: Annotated[Path, typer.Option(help="The speech: any audio file, or a video whose sound is used.")],
    out: Annotated[Path, typer.Option(help="The video to write: .mp4 (H.264, AAC) or .webm (VP9, Opus).")],
    size: Annotated[int, typer.Option(help="Side of the square video in px: 256 or 512.")] = 512,
    full_frame: Annotated[bool, typer.Option("--full-frame", help="Keep the whole picture around the face.")] = False,
    speed: Annotated[
        float | None, typer.Option(help="How fast the head moves, degrees a second (default: free).")
    ] = None,
    motion: Annotated[float, typer.Option(help="Strength of the motion, 1 = as generated.", min=0.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, another performance.", min=0)] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps (default: the model's own).", min=1)] = None,
    overwrite: Overwrite = False,
    largest_face: LargestFace = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn a portrait and a speech file into a talking video."""
    if size not in SIZES:
        raise BadInputError(f"--size {size} is not available: use {' or '.join(map(str, SIZES))}")
    from emo_live.render import RenderOptions

    options = RenderOptions(
        size=size, full_frame=full_frame, speed=speed, motion=motion, seed=seed, steps=steps, overwrite=overwrite
    )
    carry_out(portrait, audio, out, options, largest_face=largest_face, quiet=quiet, as_json=as_json)


def carry_out(
    portrait: Path, audio: Path, out: Path, options: RenderOptions, *, largest_face: bool, quiet: bool, as_json: bool
) -> None:
    """Render, show the progress and print the outcome. Raises EmoLiveError; Ctrl-C and SIGTERM leave no file."""
    from emo_live.avatar import Avatar
    from emo_live.render import render

    with reporting(quiet=quiet or as_json) as progress:
        avatar = Avatar.open(portrait, largest_face=largest_face)
        result = run_until_stopped(render(avatar, audio, out, options, progress=progress))
    if as_json:
        typer.echo(json.dumps({**_as_dict(result), "avatar": avatar.id, "size": options.size, "seed": options.seed}))
        return
    if result.damage is not None:
        typer.echo(f"warning: {result.damage}", err=True)
    if not quiet:
        typer.echo(
            f"{result.path.absolute()}: {result.duration_s:.1f} s of video in {result.elapsed_s:.1f} s, "
            f"{result.times_real_time:.2f} times real time (first frame after {result.first_frame_s:.1f} s)"
        )


def run_until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; Ctrl-C and SIGTERM cancel it and let it tidy up before this raises."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise typer.Exit(_TERMINATED) from None


def _as_dict(result: RenderResult) -> dict[str, object]:
    return {
        "path": str(result.path.absolute()),
        "frames": result.frames,
        "duration_s": result.duration_s,
        "elapsed_s": result.elapsed_s,
        "first_frame_s": result.first_frame_s,
        "times_real_time": result.times_real_time,
        "damage": result.damage,
    }
