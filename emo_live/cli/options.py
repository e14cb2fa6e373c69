"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emo_live.errors import BadInputError

if TYPE_CHECKING:
    from emo_live.engine.published import PublishedOptions

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
LargestFace = Annotated[bool, typer.Option("--largest-face", help="With several faces, take the largest one.")]

# Of engines with published weights.
Weights = Annotated[
    str | None, typer.Option(help="A folder with published weights, or the name of installed ones (the engine's).")
]
Guidance = Annotated[float | None, typer.Option(help="Strength of guidance: 1 (none) to 20.")]
Sampler = Annotated[str | None, typer.Option(help="ddim, lcm, tcd or segment (ddim).")]
Vae = Annotated[str | None, typer.Option(help="What makes pictures of latents: sd, or taesd, which is quicker.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (what suits the device).")]
AttentionKernel = Annotated[str | None, typer.Option(help="sdpa, xformers or matmul (sdpa).")]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile for a GPU first.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (a GPU where there is one).")]


def engine_of(
    engine: str,
    weights: str | None,
    guidance: float | None,
    sampler: str | None,
    vae: str | None,
    dtype: str | None,
    attention: str | None,
    compile: bool | None,
    device: str | None,
) -> str | PublishedOptions:
    """The engine by name, with what was said about it. Raises BadInputError for options that it does not have."""
    from emo_live.engine.published import USUAL, PublishedOptions

    given: dict[str, Any] = {
        "weights": Path(weights) if weights and "/" in weights else weights,
        "guidance": guidance,
        "sampler": sampler,
        "vae": vae,
        "dtype": dtype,
        "attention": attention,
        "compile": compile,
        "device": device,
    }
    said = {name: value for name, value in given.items() if value is not None}
    if engine in USUAL:
        return PublishedOptions(engine, **said)
    if said:
        raise BadInputError(
            f"engine {engine!r} has no {next(iter(said))}: choose one of {', '.join(USUAL)}, or leave it"
        )
    return engine
