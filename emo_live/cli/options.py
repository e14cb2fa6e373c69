"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

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
