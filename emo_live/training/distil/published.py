"""Distils a model folder into another one: from the user's films to weights that the engine loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emo_live.engine.published import PUBLISHED_LIMITS
from emo_live.errors import BadInputError
from emo_live.models.backbone import Block
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.vae import load_codec
from emo_live.models.wav2vec import streaming_features
from emo_live.training.distil.latent import LatentStudent
from emo_live.training.distil.latent_data import LatentData, write_latents
from emo_live.training.distil.recipe import Phase, Recipe
from emo_live.training.distil.student import Batch
from emo_live.training.distil.train import Course, run_phases
from emo_live.training.run import Budget, channels_last, pick_device
from emo_live.training.takes import gather, take_names
from emo_live.types import ModelFolder
from emo_live.weights.manifest import FileEntry, check_name, read_manifest, write_manifest
from emo_live.weights.tensor_file import lazily
from emo_live.weights.writing import write_tensors


def check_out(out: Path) -> None:
    """Before anything is trained: whether the result can get its place."""
    if out.exists():
        raise BadInputError(f"{out} is there already: give another --out, or remove it")
    check_name(out.name)


def distil_published(
    teacher: ModelFolder, films: Path, work: Path, out: Path, recipe: Recipe, budget: Budget, size_px: int
) -> None:
    """films: a folder of them; what is made of it stays in `work`. Writes the model folder `out`."""
    PUBLISHED_LIMITS.check_size(size_px)
    check_out(out)
    device = pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    gather(films, work, {})
    write_latents(work, load_codec(teacher, "sd", device, dtype), size_px)
    names = take_names(work, "train")
    if not names:
        raise BadInputError(f"no film in {films} can be used: {work / 'clips.csv'} says why")
    hear = streaming_features(teacher.sound, teacher.config, device, torch.float32)
    data = LatentData(work, names, teacher.config, size_px, hear)
    network = load_network(teacher).to(device)
    channels_last(network)
    for block in network.denoising_unet.modules():
        if isinstance(block, Block):
            block.recompute = True

    def batches(phase: Phase, first: int) -> Iterator[Batch]:
        return data.batches(budget.batch, recipe.frames, phase.windows, budget.seed, first)

    course = Course(LatentStudent(teacher.config), network, recipe, batches, None)
    run_phases(course, work / "distil", budget, device)
    write_student(network, teacher, recipe, out)


def load_network(folder: ModelFolder) -> LatentEmo:
    network = LatentEmo(folder.config)
    network.load_state_dict(load_file(folder.emo))
    return network.float()


def write_student(network: nn.Module, teacher: ModelFolder, recipe: Recipe, out: Path) -> None:
    """A model folder: the trained weights in the precision of the teacher's file, everything else as the teacher has
    it."""
    manifest = read_manifest(teacher.path)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name in set(manifest.files) - {teacher.emo.name}:
            (part / name).parent.mkdir(exist_ok=True)
            linked(teacher.path / name, part / name)
        taught = {name: value.dtype for name, value in load_file(teacher.emo).items()}
        state: dict[str, Tensor] = {name: value.cpu().to(taught[name]) for name, value in network.state_dict().items()}
        digest = write_tensors(part / teacher.emo.name, lazily(state), lambda count: None)
        before = manifest.files[teacher.emo.name]
        entry = FileEntry(digest, (part / teacher.emo.name).stat().st_size, before.source, before.licence)
        note = (
            f"Distilled from {manifest.name} by emo-live train distil: --engine {manifest.model} --weights {out.name} "
            f"--sampler segment --steps {recipe.segments} --guidance 1; guidance {recipe.guidance:g} is in the weights."
        )
        config = replace(manifest.config, schedule=replace(manifest.config.schedule, fixed_stride=False))
        files = {**manifest.files, teacher.emo.name: entry}
        write_manifest(
            part, replace(manifest, name=out.name, config=config, files=files, notes=(*manifest.notes, note))
        )
        part.replace(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def linked(path: Path, to: Path) -> None:
    """The same file under another name where the disk can do that, else a copy."""
    try:
        os.link(path.resolve(), to)
    except OSError:
        shutil.copyfile(path, to)
