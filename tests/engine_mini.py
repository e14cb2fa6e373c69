"""The published engine on small random models, for tests of several modules: no more than what each needs is made."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import numpy as np
from fakes import bundled_avatar, syllables
from mini_checkpoint import mini_model_folder

from emo_live.engine.backend_latent import LatentBackend
from emo_live.engine.base import EngineFrame
from emo_live.engine.latent_generator import LatentGenerator
from emo_live.engine.published import PublishedOptions, opened
from emo_live.engine.window import Controls, RollingWindow, WindowPolicy
from emo_live.folders import CACHE_VARIABLE
from emo_live.weights.manifest import Model

SIZE = 128  # px: of less, the lowest level of so narrow a model has one value a group


@cache
def mini_folder(model: str = "hallo") -> Path:
    """Read only: it is shared. In the folder that goes when the tests end (conftest.py)."""
    folder = mkdtemp(prefix="emo-live-mini-", dir=os.environ[CACHE_VARIABLE])
    return mini_model_folder(Path(folder) / model, cast(Model, model))


@cache
def backend(model: str = "hallo", **options: Any) -> LatentBackend:
    given = PublishedOptions(model, weights=mini_folder(model), **options)
    return LatentBackend(opened(given), given, live=False, size_px=SIZE)


def generator(
    model: str = "hallo", *, steps: int = 1, seed: int = 0, controls: Controls | None = None, **options: Any
) -> LatentGenerator:
    made, avatar = backend(model, **{"guidance": 1.0, **options}), bundled_avatar()
    portrait = made.prepare(avatar, SIZE)
    return LatentGenerator(made, portrait, avatar, size=SIZE, seed=seed, steps=steps, controls=controls or Controls())


def window(generator: LatentGenerator, *lengths: int) -> RollingWindow:
    return RollingWindow(generator, WindowPolicy(lengths or (2,)))


def speech(steps: int) -> np.ndarray:
    """(steps, 640)."""
    return syllables(steps * 0.04).reshape(-1, 640)


def drive(window: RollingWindow, steps: np.ndarray, every: int = 1) -> list[EngineFrame]:
    """All frames of an utterance, asked for every so many steps."""
    frames: list[EngineFrame] = []
    for i, step in enumerate(steps):
        window.push(step)
        if i % every == every - 1:
            frames += window.frames()
    window.finish()
    return frames + window.frames()
