"""Published weights of the EMO family as an engine: what can be chosen, and how renders and live sessions get it.

Checks everything that can be checked before weights are read: names, installed packages, the model folder. Imports no
torch; the tensor work is in backend_latent.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_live.avatar import Avatar
from emo_live.config import EmoConfig
from emo_live.engine.kept import Kept
from emo_live.engine.limits import Limits
from emo_live.engine.live import Checkpoint, LiveEngine, LiveSpec, Timing, WindowEngine, no_checkpoint
from emo_live.engine.window import Controls, RollingWindow
from emo_live.errors import BadInputError, NotSupportedError
from emo_live.types import ModelFolder
from emo_live.weights import open_model
from emo_live.weights.extra import require_extra

if TYPE_CHECKING:
    from emo_live.engine.backend_latent import LatentBackend
    from emo_live.models.emo import Portrait

SAMPLERS = ("ddim", "lcm", "tcd", "segment")
CODECS = ("sd", "taesd")
DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "xformers", "matmul")
MAX_STEPS = 100
MAX_GUIDANCE = 20.0
OVERLAP = 4  # frames that EchoMimic's windows share: of 12, as many as its pipeline makes together
_START_S = 900.0  # gigabytes to read, and on a GPU a compiler that takes minutes
_KEPT_PORTRAITS = 8  # prepared ones, 23 MB each at 512 px


@dataclass(frozen=True, slots=True)
class Usual:
    """How published pictures were sampled: denoising steps, guidance."""

    steps: int
    guidance: float


# Engines by name. JoyHallo's and Hallo2's pipelines are Hallo's; EchoMimic's accelerated weights need no guidance.
USUAL = {
    "hallo": Usual(40, 3.5),
    "hallo2": Usual(40, 3.5),
    "joyhallo": Usual(40, 3.5),
    "echomimic": Usual(30, 2.5),
    "echomimic-acc": Usual(6, 1.0),
}
# Live there is no time for more; guidance doubles the work. Weights that were not distilled look rough like this.
LIVE_STEPS = 4
LIVE_GUIDANCE = 1.0


@dataclass(frozen=True, slots=True)
class PublishedOptions:
    """How an engine with published weights runs. Raises BadInputError for values that cannot be used.

    engine: one of USUAL. weights: a model folder, or the name of an installed one (None: the engine's). steps and
    guidance: None is as published pictures were made, live at most 4 steps without guidance; guidance 1 is none.
    sampler: one of SAMPLERS. vae: "sd", or "taesd", which is quicker and less exact (None: sd; live taesd, where it is
    installed). dtype: None is bfloat16 on CUDA (float16 on cards without it), float32 on a CPU. attention: a kernel.
    compile: torch.compile and CUDA graphs (None: live on CUDA). device: "cuda", "cuda:1", "cpu" (None: CUDA, where
    there is one).
    """

    engine: str
    weights: str | Path | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str = "ddim"
    vae: str | None = None
    dtype: str | None = None
    attention: str = "sdpa"
    compile: bool | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, tuple(USUAL))
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("vae", self.vae, CODECS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("attention", self.attention, ATTENTIONS)
        if self.steps is not None:
            PUBLISHED_LIMITS.check_steps(self.steps)
        if self.guidance is not None and not 1 <= self.guidance <= MAX_GUIDANCE:
            raise BadInputError(f"guidance must be 1 (none) to {MAX_GUIDANCE:g}, not {self.guidance}")
        name, _, number = (self.device or "cpu").partition(":")
        if name not in ("cpu", "cuda") or (number and not (name == "cuda" and number.isdigit())):
            raise BadInputError(f"device must be cpu, cuda or cuda:N, not {self.device!r}")

    def usual_steps(self, *, live: bool) -> int:
        if self.steps is not None:
            return self.steps
        usual = USUAL[self.engine].steps
        return min(usual, LIVE_STEPS) if live and USUAL[self.engine].guidance > 1 else usual

    def usual_guidance(self, *, live: bool) -> float:
        if self.guidance is not None:
            return self.guidance
        return LIVE_GUIDANCE if live else USUAL[self.engine].guidance


PUBLISHED_LIMITS = Limits(sizes_px=None, max_steps=MAX_STEPS, usual_steps=LIVE_STEPS, start_s=_START_S)


def _one_of(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise BadInputError(f"there is no {what} {value!r}: use {', '.join(known)}")


def chosen_engine(engine: str, **said: Any) -> str | PublishedOptions:
    """The engine by name, or with what is said of it: fields of PublishedOptions, None for nothing said.

    Raises BadInputError for options that this engine does not have.
    """
    given = {name: value for name, value in said.items() if value is not None}
    if engine in USUAL:
        return PublishedOptions(engine, **given)
    if given:
        raise BadInputError(
            f"engine {engine!r} has no {next(iter(given))}: choose one of {', '.join(USUAL)}, or leave it"
        )
    return engine


def check_installed(attention: str = "sdpa") -> None:
    """Raise NotSupportedError, with the pip line, unless the packages that the options need are there."""
    require_extra()
    if attention == "xformers" and importlib.util.find_spec("xformers") is None:
        raise NotSupportedError('attention "xformers" needs: pip install xformers')


def opened(options: PublishedOptions) -> ModelFolder:
    """The weights that these options mean. Raises NotSupportedError, or BadInputError with the command to run."""
    check_installed(options.attention)
    folder = open_model(options.weights if options.weights is not None else options.engine)
    if folder.model != options.engine.removesuffix("-acc"):
        raise BadInputError(f"'{folder.path}' holds weights of {folder.model}: use engine {folder.model!r}")
    if options.vae == "taesd" and folder.taesd is None:
        raise BadInputError(f"'{folder.path}' has no taesd: pull or convert it once more with taesd, or use vae sd")
    return folder


def check_controls(folder: ModelFolder, speed: float | None, motion: float) -> None:
    """Raise BadInputError for what these weights cannot follow."""
    if speed is not None and folder.config.speed is None:
        raise BadInputError(f"{folder.name} has no speed layers: leave --speed out")
    if motion != 1 and folder.config.backbone.audio is None:
        raise BadInputError(f"{folder.name} has no strength of motion that could be set: leave --motion out")


@dataclass(frozen=True, slots=True)
class RenderWish:
    """What a rendering asks of the engine, besides PublishedOptions; speed None: as the model likes."""

    size: int
    full_frame: bool
    seed: int
    speed: float | None
    motion: float
    threads: int | None


def offline_lengths(config: EmoConfig) -> tuple[int, ...]:
    """Frames of a window: as many as the weights know, less those that EchoMimic's windows share; then shorter ones,
    for where memory is short."""
    return (16, 12, 8) if config.motion_frames else (12 - OVERLAP,)


def live_lengths(config: EmoConfig) -> tuple[int, ...]:
    """A short first window: its picture needs 240 ms of sound. Long ones are shorter than files have, so that what is
    said shows sooner."""
    return (4, min(12, offline_lengths(config)[0]))


@contextlib.contextmanager
def published_engine(options: PublishedOptions, wish: RenderWish) -> Iterator[Callable[[Avatar], RollingWindow]]:
    """For a rendering: checks first, then loads; its value makes the window of an avatar."""
    PUBLISHED_LIMITS.check_size(wish.size)
    folder = opened(options)
    check_controls(folder, wish.speed, wish.motion)
    from emo_live.engine.backend_latent import LatentBackend
    from emo_live.engine.latent_generator import LatentGenerator, offline_policy

    backend = LatentBackend(folder, options, live=False, size_px=wish.size, threads=wish.threads)
    controls = Controls(motion=wish.motion) if wish.speed is None else Controls(wish.speed, wish.motion)

    def window(avatar: Avatar) -> RollingWindow:
        generator = LatentGenerator(
            backend,
            backend.prepare(avatar, wish.size),
            avatar,
            size=wish.size,
            full_frame=wish.full_frame,
            seed=wish.seed,
            steps=options.usual_steps(live=False),
            controls=controls,
        )
        return RollingWindow(generator, offline_policy(backend))

    try:
        yield window
    finally:
        backend.close()


@dataclass(frozen=True)
class PublishedFactory:
    """For live sessions: an engine factory that can be pickled. Checks when it is made.

    size_px: the size that is warmed up and for which there must be memory; sessions may ask for others.
    """

    options: PublishedOptions
    size_px: int = 512
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        PUBLISHED_LIMITS.check_size(self.size_px)
        folder = opened(self.options)
        # The engine process is given the place, whatever its environment says.
        object.__setattr__(self, "options", replace(self.options, weights=folder.path.resolve()))
        steps = self.options.usual_steps(live=True)
        object.__setattr__(self, "limits", replace(PUBLISHED_LIMITS, usual_steps=steps))

    def __call__(self, threads: int, checkpoint: Checkpoint) -> PublishedHost:
        return PublishedHost(threads, checkpoint, self.options, self.size_px)


class PublishedHost:
    """Published weights in the engine process, shared by its sessions."""

    def __init__(self, threads: int, checkpoint: Checkpoint, options: PublishedOptions, size_px: int) -> None:
        self._threads, self._checkpoint = threads, checkpoint
        self._options, self._size_px = options, size_px
        self._folder = opened(options)
        self._portraits: Kept[tuple[str, int], Portrait] = Kept(_KEPT_PORTRAITS)
        self._backend: Future[LatentBackend] = Future()
        self.timing = Timing(live_lengths(self._folder.config), self._folder.config.audio_look_ahead)

    def warm(self) -> None:
        """Loads the weights, and runs windows to learn how long they take."""
        try:
            self._backend.set_result(self._warmed())
        except BaseException as error:
            self._backend.set_exception(error)
            raise

    def _warmed(self) -> LatentBackend:
        from emo_live.engine.backend_latent import LatentBackend
        from emo_live.engine.latent_generator import warm_up

        options, size, lengths = self._options, self._size_px, self.timing.lengths
        backend = LatentBackend(self._folder, options, live=True, size_px=size, threads=self._threads)
        self.timing = replace(self.timing, piece_s=warm_up(backend, lengths, size, options.usual_steps(live=True)))
        backend.checkpoint = self._checkpoint
        return backend

    def open(self, spec: LiveSpec) -> LiveEngine:
        from emo_live.engine.latent_generator import LatentGenerator

        avatar, size, backend = spec.avatar, spec.size, self._loaded()
        generator = LatentGenerator(
            backend,
            self._portraits.get((avatar.id, size), lambda: backend.prepare(avatar, size)),
            avatar,
            size=size,
            seed=spec.seed,
            steps=spec.settings.steps,
            controls=spec.settings.controls,
        )
        return WindowEngine(generator, spec.settings, self.timing.lengths)

    def _loaded(self) -> LatentBackend:
        """A session may be opened while weights still load."""
        return self._backend.result(timeout=_START_S)

    def close(self) -> None:
        if self._backend.done() and not self._backend.exception():
            self._loaded().checkpoint = no_checkpoint
            self._loaded().close()
