"""`emo-live train STAGE`: one function a stage, in the order in which they run. They know folders, not how to train.

Everything lies in one work folder (--work, default runs/tiny): sound/, frames/, tracks/, and a folder a trained stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from emo_live.errors import BadInputError
from emo_live.training.casting import SPLITS, casting, chosen_clips
from emo_live.training.pack import Pack
from emo_live.training.run import Budget
from emo_live.training.stages_measure import evaluate, liveliness, roll_outs
from emo_live.training.stages_options import (
    BASIS,
    PRIOR,
    WORK,
    AnyPackOption,
    MinutesOption,
    PackOption,
    ShareOption,
    StepsOption,
    WhisperOption,
    WorkOption,
)
from emo_live.types import Float32

if TYPE_CHECKING:
    from emo_live.training.distil.recipe import Recipe

app = typer.Typer(name="emo-live train", help="Train the tiny model, stage by stage.", add_completion=False)

T = TypeVar("T")


def of_share(items: list[T], share: str) -> list[T]:
    index, count = (int(x) for x in share.split("/"))
    return items[index::count]


@app.callback()
def _stages() -> None:
    """Train the tiny model, stage by stage."""


@app.command()
def unpack(work: WorkOption = WORK) -> None:
    """The model that ships as a work folder, to train on from there; its EMO is the stage `shipped`."""
    from emo_live.engine.backend_openvino import ASSETS
    from emo_live.training.unpack import unpack_model

    unpack_model(ASSETS, work)


@app.command()
def sound(
    pack: PackOption,
    whisper: WhisperOption,
    work: WorkOption = WORK,
    variants: Annotated[int, typer.Option(help="Clean sound and so many less one like microphones.")] = 3,
    share: ShareOption = "0/1",
    seed: int = 0,
) -> None:
    """Sound features of every performance."""
    from emo_live.training.performance import perform, programme
    from emo_live.training.sound import prepare_sound, whisper_encoder

    opened = Pack(pack)
    names = [*programme(chosen_clips(opened, "val")), *programme(chosen_clips(opened, "train"))]
    encoder = whisper_encoder(whisper)

    def heard(name: str) -> Float32:
        return perform(opened, name).pcm

    prepare_sound(of_share(names, share), heard, work / "sound", encoder, variants=variants, seed=seed)


@app.command()
def frames(
    pack: PackOption, work: WorkOption = WORK, count: int = 24, share: ShareOption = "0/1", seed: int = 0
) -> None:
    """Rendered frames with exact flow, for the autoencoder."""
    from emo_live.training.puppets import PuppetTheatre
    from emo_live.training.shards import draw_frames

    opened = Pack(pack)
    theatre = PuppetTheatre(opened)
    clips = {split: [clip.name for clip in chosen_clips(opened, split)] for split in SPLITS}
    every = [(part, name) for part in SPLITS for name in opened.portraits(part)]
    for split, name in of_share(every, share):
        if not (work / "frames" / f"{name}.npz").exists():
            draw_frames(opened, theatre, name, clips[split], work / "frames", count=count, seed=seed)


@app.command()
def basis(pack: PackOption, work: WorkOption = WORK) -> None:
    """The linear part of the autoencoder: a PCA of the rendered flow."""
    from emo_live.training.basis import fit_basis, save_basis
    from emo_live.training.frame_data import load_shards

    fitted, kept = fit_basis(load_shards(work / "frames", Pack(pack).portraits("train")))
    save_basis(fitted, work / BASIS)
    print(f"the PCA keeps {kept:.4f} of the weighted energy")


@app.command()
def tracks(
    pack: PackOption,
    work: WorkOption = WORK,
    count: Annotated[int, typer.Option(help="Performances of each portrait.")] = 4,
    share: ShareOption = "0/1",
    seed: int = 0,
) -> None:
    """Motion latents of whole performances, for the diffusion model."""
    from emo_live.training.basis import load_basis
    from emo_live.training.puppets import PuppetTheatre
    from emo_live.training.shards import draw_tracks

    opened = Pack(pack)
    fitted, theatre = load_basis(work / BASIS), PuppetTheatre(opened)
    for name, performances in of_share(casting(opened), share):
        if not (work / "tracks" / f"{name}.npz").exists():
            draw_tracks(opened, theatre, name, performances[:count], fitted, work / "tracks", seed=seed)


@app.command()
def autoencoder(
    pack: PackOption,
    work: WorkOption = WORK,
    minutes: MinutesOption = 60,
    steps: StepsOption = None,
    batch: int = 16,
    seed: int = 0,
) -> None:
    """Flow decoder and mouth painter."""
    from emo_live.training import autoencoder as stage
    from emo_live.training.work_folder import new_autoencoder

    budget = Budget(minutes, steps, batch, seed)
    stage.train(work / "frames", Pack(pack), new_autoencoder(work), work / "autoencoder", budget, painter_alone=False)


@app.command()
def mouth(
    pack: PackOption,
    work: WorkOption = WORK,
    minutes: MinutesOption = 45,
    steps: StepsOption = None,
    batch: int = 16,
    seed: int = 0,
) -> None:
    """The mouth painter alone, from that of the autoencoder, around its flow."""
    from emo_live.training import autoencoder as stage
    from emo_live.training.work_folder import autoencoder_of

    budget = Budget(minutes, steps, batch, seed)
    stage.train(work / "frames", Pack(pack), autoencoder_of(work), work / "mouth", budget, painter_alone=True)


@app.command()
def encoder(
    pack: PackOption,
    work: WorkOption = WORK,
    minutes: MinutesOption = 20,
    steps: StepsOption = None,
    batch: int = 16,
    seed: int = 0,
) -> None:
    """Motion latents from pixels, for training on clips."""
    from emo_live.training.encoder_stage import train_on_frames

    names = (Pack(pack).portraits("train"), Pack(pack).portraits("val"))
    train_on_frames(work, names, work / "encoder", Budget(minutes, steps, batch, seed))


@app.command()
def clips(
    folder: Annotated[Path, typer.Argument(help="Videos of talking heads; folders in it are searched too.")],
    whisper: WhisperOption,
    pack: Annotated[Path | None, typer.Option(help="Data pack, whose portraits --tune trains on as well.")] = None,
    work: WorkOption = WORK,
    splits: Annotated[Path | None, typer.Option(help="CSV with columns clip and split: train or val.")] = None,
    tune: Annotated[float, typer.Option(help="Minutes of training the encoder on these clips first.")] = 0,
    variants: Annotated[int, typer.Option(help="Clean sound and so many less one like microphones.")] = 3,
    batch: int = 8,
    seed: int = 0,
) -> None:
    """Tracks and sound features of your own videos."""
    from emo_live.training import clips as stage
    from emo_live.training.sound import whisper_encoder
    from emo_live.training.takes import gather, split_table

    gather(folder, work, split_table(splits) if splits else {})
    names = (Pack(pack).portraits("train"), Pack(pack).portraits("val")) if pack else ([], [])
    if tune:
        stage.tune(work, names, Budget(tune, None, batch, seed))
    print(stage.encode(work))
    stage.write_sound(work, whisper_encoder(whisper), variants=variants, seed=seed)


@app.command()
def prior(pack: AnyPackOption = None, work: WorkOption = WORK) -> None:
    """The linear motion model that the diffusion works around, fitted on the tracks."""
    from emo_live.training.basis import load_basis
    from emo_live.training.prior import fit_prior
    from emo_live.training.work_folder import motion_data

    data, fitted = motion_data(pack, work)[0], load_basis(work / BASIS)
    shares = fit_prior(data, fitted, work / PRIOR)
    print("shares of the visible motion:", {name: round(value, 4) for name, value in shares.items()})


@app.command()
def hearing(
    pack: AnyPackOption = None,
    work: WorkOption = WORK,
    minutes: MinutesOption = 3,
    steps: StepsOption = None,
    batch: int = 64,
    seed: int = 0,
) -> None:
    """The audio projection alone, on mouth shapes."""
    from emo_live.training.diffusion import train_hearing
    from emo_live.training.work_folder import motion_data

    train_hearing(motion_data(pack, work)[0], work / "hearing", Budget(minutes, steps, batch, seed))


@app.command()
def gestures(
    pack: AnyPackOption = None,
    work: WorkOption = WORK,
    minutes: MinutesOption = 8,
    steps: StepsOption = None,
    batch: int = 32,
    seed: int = 0,
) -> None:
    """Head poses, brows and lids from noise."""
    from emo_live.training.gestures import train
    from emo_live.training.work_folder import motion_data

    train(motion_data(pack, work)[0], work / "gestures", Budget(minutes, steps, batch, seed))


def teacher(name: str, start: list[str], pack: Path | None, work: Path, budget: Budget, rate: float = 1.0) -> None:
    from emo_live.training import diffusion
    from emo_live.training.basis import load_basis
    from emo_live.training.work_folder import motion_data, new_model

    data, folders = motion_data(pack, work), [work / part for part in start]
    basis, model = load_basis(work / BASIS), new_model(work)
    diffusion.train(diffusion.Stage(name), data, basis, model, folders, work / name, budget, rate)


@app.command()
def image(
    pack: AnyPackOption = None,
    work: WorkOption = WORK,
    minutes: MinutesOption = 5,
    steps: StepsOption = None,
    batch: int = 48,
    seed: int = 0,
) -> None:
    """Teacher, stage 1: backbone, ReferenceNet and face locator on single frames."""
    teacher("image", [], pack, work, Budget(minutes, steps, batch, seed))


@app.command()
def video(
    pack: AnyPackOption = None,
    work: WorkOption = WORK,
    start: Annotated[list[str] | None, typer.Option(help="Folders to begin from; else image, hearing.")] = None,
    rate: Annotated[float, typer.Option(help="Share of the usual learning rates: less to go on gently.")] = 1.0,
    minutes: MinutesOption = 45,
    steps: StepsOption = None,
    batch: int = 8,
    seed: int = 0,
) -> None:
    """Teacher, stage 2: with sound, temporal layers and motion frames, on windows."""
    teacher("video", start or ["image", "hearing"], pack, work, Budget(minutes, steps, batch, seed), rate)


@app.command()
def speed(
    pack: AnyPackOption = None,
    work: WorkOption = WORK,
    minutes: MinutesOption = 3,
    steps: StepsOption = None,
    batch: int = 8,
    seed: int = 0,
) -> None:
    """Teacher, stage 3: temporal and speed layers only."""
    teacher("speed", ["image", "hearing", "video"], pack, work, Budget(minutes, steps, batch, seed))


@app.command()
def distil(
    pack: AnyPackOption = None,
    work: Annotated[Path | None, typer.Option(help="Where data, checkpoints and logs go: runs/TEACHER.")] = None,
    teacher: Annotated[str, typer.Option(help="tiny, a published model that is pulled, or a model folder.")] = "tiny",
    teacher_run: Annotated[
        list[str] | None, typer.Option(help="tiny: runs of the teacher; else --start's, or video, speed.")
    ] = None,
    start: Annotated[list[str] | None, typer.Option(help="tiny: runs to begin from; else the teacher's.")] = None,
    films: Annotated[Path | None, typer.Option(help="Published models: a folder of films to learn from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Published models: the model folder to make.")] = None,
    size: Annotated[int, typer.Option(help="Published models: px of the pictures.")] = 512,
    matching: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the time for matching distributions.")] = 0,
    minutes: MinutesOption = 60,
    steps: StepsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows a step.")] = None,
    seed: int = 0,
) -> None:
    """The student that needs few steps and no guidance."""
    from emo_live.training.distil.recipe import HALLO_RECIPE, TINY_RECIPE, with_matching

    recipe = with_matching(TINY_RECIPE if teacher == "tiny" else HALLO_RECIPE, matching)
    budget = Budget(minutes, steps, batch or recipe.batch, seed)
    if teacher == "tiny":
        work = work or WORK
        trained = teacher_run or start or ["video", *(["speed"] if (work / "speed").exists() else [])]
        distil_tiny(pack, work, (trained, start or trained), recipe, budget)
        return
    if films is None or out is None:
        raise BadInputError(f"to distil {teacher}, give --films (a folder of videos) and --out (the folder to make)")
    from emo_live.training.distil.published import distil_published
    from emo_live.weights import open_model

    folder = open_model(teacher)
    distil_published(folder, films, work or Path("runs") / folder.name, out, recipe, budget, size)


def distil_tiny(
    pack: Path | None, work: Path, runs: tuple[list[str], list[str]], recipe: Recipe, budget: Budget
) -> None:
    """runs: of the teacher, and of what the student begins with, names in `work`."""
    from emo_live.training.basis import load_basis
    from emo_live.training.distil.train import train
    from emo_live.training.work_folder import motion_data, new_model

    for name in (*runs[0], *runs[1]):
        if not (work / name / "state.pt").exists():
            raise BadInputError(
                f"no run in {work / name}: make a teacher with `emo-live train video` or `unpack`, or name runs with "
                "--teacher-run and --start"
            )
    basis, model = load_basis(work / BASIS), new_model(work)
    # shipped weights lack the head for mouth shapes
    of_teacher, of_student = ([work / name for name in ("hearing", *part)] for part in runs)
    train(motion_data(pack, work), basis, model, (of_teacher, of_student), work / "distil", budget, recipe)


@app.command()
def export(
    whisper: WhisperOption,
    work: WorkOption = WORK,
    student: Annotated[str, typer.Option(help="The stage whose weights ship.")] = "distil",
    out: Annotated[Path, typer.Option(help="Folder of the model's files.")] = Path("emo_live/assets/tiny"),
) -> None:
    """Trained weights to the files that ship."""
    from emo_live.config import TINY
    from emo_live.models.gestures import Gestures
    from emo_live.training.export import Trained, write_model
    from emo_live.training.run import load_weights
    from emo_live.training.sound import whisper_encoder
    from emo_live.training.work_folder import autoencoder_of, hearing_of, new_model

    painter, emo = autoencoder_of(work), new_model(work)
    load_weights(emo, work / student)
    drawn = Gestures(TINY.gestures)
    load_weights(drawn, work / "gestures")
    parts = Trained(emo, painter, whisper_encoder(whisper), hearing_of(work), drawn, work / PRIOR)
    write_model(parts, out, {"student": student})


app.command()(evaluate)
app.command()(liveliness)
app.command()(roll_outs)


def main(arguments: list[str]) -> int:
    """Runs a stage; returns the exit code."""
    result = app(arguments or ["--help"], prog_name="emo-live train", standalone_mode=False)
    return result if isinstance(result, int) else 0
