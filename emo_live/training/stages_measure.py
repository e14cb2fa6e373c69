"""The stages that measure: the shipped model against an evaluator and true motion, any stage by its roll-outs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from emo_live.engine.window import DEFAULT_SPEED
from emo_live.training.pack import Pack
from emo_live.training.stages_options import BASIS, WORK, AnyPackOption, PackOption, ShareOption, WorkOption


def evaluate(
    pack: PackOption,
    out: Annotated[Path, typer.Option(help="Folder of videos, sheets and results.")],
    condition: Annotated[
        list[str] | None, typer.Option(help="model, puppet, still, loudness or wrong-audio; may be repeated.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=0, help="Trials of model and puppet; all, unless given.")] = None,
    few: Annotated[int | None, typer.Option(min=0, help="Trials of the other conditions.")] = 8,
    long: Annotated[float, typer.Option(help="One more trial of the model, of so many seconds, for drift.")] = 0,
    size: int = 256,
    judge: Annotated[bool, typer.Option(help="Measure the videos with the external evaluator.")] = True,
    share: ShareOption = "0/1",
) -> None:
    """Videos of held-out portraits and voices, the model's beside baselines, and what they measure."""
    from emo_live.training import evaluate as stage
    from emo_live.training.baselines import CONDITIONS

    chosen, (part, parts) = condition or list(CONDITIONS), share.split("/")
    at = int(part), int(parts)
    print(stage.evaluate(Pack(pack), out, chosen, count=count, few=few, long_s=long, size=size, judge=judge, share=at))


def liveliness(
    pack: PackOption,
    work: WorkOption = WORK,
    speed: Annotated[float, typer.Option(help="Head velocity in degrees a second.")] = DEFAULT_SPEED,
) -> None:
    """How much the shipped model moves held-out faces, as a share of their true motion."""
    from emo_live.engine.backend_openvino import OpenVinoBackend
    from emo_live.training.basis import load_basis
    from emo_live.training.liveliness import energies

    opened = Pack(pack)
    names = [name for name in opened.portraits("val") if (work / "tracks" / f"{name}.npz").exists()]
    backend = OpenVinoBackend(threads=1)
    try:
        shares = energies(backend, opened, work, load_basis(work / BASIS), names, speed)
    finally:
        backend.close()
    print(f"velocity energy: {np.median(shares):.2f} of the true one (median of {len(shares)}):", np.round(shares, 2))


def roll_outs(
    pack: AnyPackOption = None,
    work: WorkOption = WORK,
    stage: Annotated[list[str] | None, typer.Option(help="Runs, each over the ones before; else video.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of DDIM: 1 for students, 6 and more for teachers.")] = 6,
    count: Annotated[int, typer.Option(min=1, help="Held-out tracks.")] = 12,
    seed: int = 0,
) -> None:
    """How well a stage follows held-out sound on its own output: medians, as they are logged in training."""
    from emo_live.training.basis import load_basis
    from emo_live.training.roll_out import Sampling, measure
    from emo_live.training.teacher import start_from
    from emo_live.training.work_folder import motion_data, new_model

    model = new_model(work)
    start_from(model, [work / name for name in stage or ["video"]])
    sampling = Sampling(steps, seed=seed)
    figures = measure(model.eval(), motion_data(pack, work)[1], load_basis(work / BASIS), sampling, count)
    print({name: round(value, 3) for name, value in figures.items()})
