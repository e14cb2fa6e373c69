"""Videos to be judged: the model's, and what they are compared with. All are made from the same sound and portrait.

model        the shipped model, through render()
puppet       the portrait's puppet with the motion that belongs to the speech: as good as this training data can be
still        the portrait: no lips move
loudness     the puppet with a jaw that follows the sound's loudness, eyes and head as in `puppet`
wrong-audio  the model's pictures of another trial under this trial's sound

A video that lies there already is kept, unless the model's files, or the video it is made of, are newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from emo_live.avatar import Avatar
from emo_live.engine.backend_openvino import ASSETS
from emo_live.errors import BadInputError
from emo_live.render import RenderOptions, render
from emo_live.training.pack import Pack
from emo_live.training.performance import Performance, lip_columns
from emo_live.training.trials import Trial, act
from emo_live.transport.file import VideoFileWriter
from emo_live.types import MODEL_RATE_HZ, MODEL_STEP_SAMPLES, Float32, UInt8

if TYPE_CHECKING:
    from emo_live.training.puppets import PuppetTheatre

CONDITIONS = ("model", "puppet", "still", "loudness", "wrong-audio")
LOUD_JAW, LOUD_RANGE_DB = 0.4, 30.0


class Studio:
    """Makes the videos of an evaluation: OUT/CONDITION/TRIAL.mp4, and OUT/sound/TRIAL.wav. One thread."""

    def __init__(self, pack: Pack, every: list[Trial], out: Path, size: int, assets: Path = ASSETS):
        self.pack, self.every, self.out, self.size, self.assets = pack, every, out, size, assets
        self._cast = ""

    def sound(self, trial: Trial) -> Path:
        """The trial's sound, 16 kHz, 16 bits."""
        import soundfile

        path = self.out / "sound" / f"{trial.name}.wav"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(str(path), act(self.pack, trial).pcm, MODEL_RATE_HZ, subtype="PCM_16")
        return path

    def video(self, condition: str, trial: Trial) -> Path:
        path = self.out / condition / f"{trial.name}.mp4"
        sources = self._sources(condition, trial)
        if path.exists() and all(source.stat().st_mtime <= path.stat().st_mtime for source in sources):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        if condition == "model":
            avatar, options = Avatar.prepare(self.portrait(condition, trial)), self._options(trial)
            asyncio.run(render(avatar, self.sound(trial), path, options))
        else:
            show = act(self.pack, trial)
            write_video(path, self._pictures(condition, trial, show), show.pcm, self.size)
        return path

    def portrait(self, condition: str, trial: Trial) -> Path:
        """Whose face the video shows."""
        shown = self.partner(trial) if condition == "wrong-audio" else trial
        return self.pack.folder / "portraits" / f"{shown.portrait}.jpg"

    def partner(self, trial: Trial) -> Trial:
        """Whose video goes under a trial's sound as `wrong-audio`: the next one that says nothing of it."""
        at = next((i for i, other in enumerate(self.every) if other.name == trial.name), -1)
        for other in [*self.every[at + 1 :], *self.every[: max(at, 0)]]:
            if not set(other.clips) & set(trial.clips):
                return other
        raise BadInputError("wrong-audio needs two trials that say different things: raise --count")

    def _options(self, trial: Trial) -> RenderOptions:
        return RenderOptions(size=self.size, seed=trial.number, overwrite=True, threads=1)

    def _sources(self, condition: str, trial: Trial) -> list[Path]:
        if condition == "model":
            return [path for path in self.assets.iterdir() if path.is_file()] if self.assets.is_dir() else []
        return [self.video("model", self.partner(trial))] if condition == "wrong-audio" else []

    def _pictures(self, condition: str, trial: Trial, show: Performance) -> Iterator[UInt8]:
        if condition == "wrong-audio":
            other = read_pictures(self.video("model", self.partner(trial)))
            return (other[i] for i in to_and_fro(len(other), len(show.arkit)))
        if condition == "still":
            from emo_live.training.puppets import View

            portrait = View().crop(self.pack.portrait(trial.portrait), self.size)
            return (portrait for _ in show.arkit)
        arkit = show.arkit
        if condition == "loudness":
            arkit = loud_jaw(show.pcm, arkit, self.pack.arkit_names)
        return self._puppet(trial.portrait, arkit, show.pose)

    def _puppet(self, portrait: str, arkit: Float32, pose: Float32) -> Iterator[UInt8]:
        if self._cast != portrait:
            self._theatre.cast(portrait)
            self._cast = portrait
        for weights, placed in zip(arkit, pose, strict=True):
            yield self._theatre.picture(weights, placed, self.size)

    @cached_property
    def _theatre(self) -> PuppetTheatre:
        from emo_live.training.puppets import PuppetTheatre

        return PuppetTheatre(self.pack)


def loud_jaw(pcm: Float32, arkit: Float32, names: tuple[str, ...]) -> Float32:
    """Weights (T, 52) whose only lip motion is a jaw that follows the level of pcm (640 T,)."""
    power = np.square(pcm.reshape(len(arkit), MODEL_STEP_SAMPLES)).mean(1)
    level_db = 10 * np.log10(power + 1e-9)
    share = np.clip(1 + (level_db - np.quantile(level_db, 0.95)) / LOUD_RANGE_DB, 0, 1)
    smooth = np.convolve(np.pad(share, 1, mode="edge"), (0.25, 0.5, 0.25), "valid")
    out = arkit * ~lip_columns(names)
    out[:, names.index("jawOpen")] = LOUD_JAW * smooth
    return out.astype(np.float32)


def to_and_fro(length: int, count: int) -> np.ndarray:
    """(count,) indices 0, 1, ... length - 1, length - 2, ...: pictures for a sound that is longer than they are."""
    there = np.arange(max(1, 2 * length - 2))
    return np.resize(np.minimum(there, 2 * length - 2 - there) if length > 1 else there, count)


def write_video(path: Path, pictures: Iterable[UInt8], pcm: Float32, size: int) -> None:
    """Pictures (size, size, 3), each with its 640 samples of pcm."""
    with VideoFileWriter(path, width=size, height=size, rate_hz=MODEL_RATE_HZ, channels=1, overwrite=True) as writer:
        for index, picture in enumerate(pictures):
            writer.write_video(picture)
            start = index * MODEL_STEP_SAMPLES
            writer.write_audio(pcm[start : start + MODEL_STEP_SAMPLES, None])


def read_pictures(path: Path) -> list[UInt8]:
    """All pictures (H, W, 3) of a video."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
