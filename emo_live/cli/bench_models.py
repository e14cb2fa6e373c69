"""`emo-live bench models` and `emo-live bench gpu`: the networks of all sizes, with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from emo_live.cli.options import Json
from emo_live.cli.tables import show
from emo_live.errors import NotSupportedError


def models(
    pairs: Annotated[int, typer.Option(help="How often each pair of networks is timed.", min=5)] = 21,
    as_json: Json = False,
) -> None:
    """Compare our denoiser's step with diffusers' own networks doing the same work, on one thread of this CPU."""
    try:
        from emo_live.bench_models.compare import measure
    except ModuleNotFoundError as error:
        raise _missing(error) from None

    def tell(name: str) -> None:
        if not as_json:
            typer.echo(f"timing {name}", err=True)

    show(measure(pairs=pairs, tell=tell).as_dict(), as_json=as_json)


def gpu(
    minutes: Annotated[float, typer.Option(help="How long it may take, in minutes.", min=0.1)] = 10.0,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:N, or cpu, with --small.")] = None,
    small: Annotated[bool, typer.Option("--small", help="Small networks, to try the benchmark out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as results come.")] = False,
) -> None:
    """Measure published sizes on a GPU: frames a second, ms by stage, memory, TFLOP/s; what matters most is first."""
    try:
        from emo_live.bench_models.gpu import measure
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    told = measure(device=device, minutes=minutes, small=small)
    if as_json:
        for part in told:
            typer.echo(json.dumps(part))
    else:
        _told(told)


def _told(parts: Iterable[dict[str, Any]]) -> None:
    """A line for each case when it is there, and a table in the end."""
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for part in parts:
        if "machine" in part:
            show({"machine": part["machine"]}, as_json=False)
        if row := part.get("row"):
            rows.append(row)
            case = [f"{row['model']} {row['size_px']} px", row["dtype"], row["mode"], row["vae"]]
            guided = ["guidance"] * row["guidance"]
            speed = f"{row['fps_4']:.1f} fps at 4 steps, {row['denoise_ms']:.2f} ms a frame and step"
            typer.echo(f"{', '.join(case + guided)}: {speed}, {row['tflops']:.1f} TFLOP/s ({row['why']})")
        left_out += part.get("left_out", [])
    speeds = ("model", "size_px", "dtype", "mode", "vae", "guidance", "fps_1", "fps_2", "fps_4", "fps_6")
    stages = (
        "model",
        "size_px",
        "mode",
        "vae",
        "denoise_ms",
        "decode_ms",
        "motion_bank_ms",
        "sound_ms",
        "tflops",
        "roofline",
    )
    memory = ("model", "size_px", "dtype", "mode", "vae", "guidance", "memory_gb", "estimate_gb", "ready_s")
    titles = {"frames_a_second": speeds, "ms_a_frame_by_stage": stages, "memory": memory}
    tables = {title: [{name: row[name] for name in names} for row in rows] for title, names in titles.items()}
    show(tables, as_json=False)
    if left_out:
        show({"left_out": left_out}, as_json=False)


def _missing(error: ModuleNotFoundError) -> NotSupportedError:
    return NotSupportedError(f'this needs {error.name}: pip install "emo-live[gpu]"')
