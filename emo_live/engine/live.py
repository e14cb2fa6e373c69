"""Engines as live sessions use them: several share one host, and their quality can be changed while they run.

A host owns what is expensive (the compiled model) and lives where the engines run: in the engine process, or in a test.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from emo_live.avatar import Avatar
from emo_live.config import TINY
from emo_live.engine.base import Backend, Engine, Prepared
from emo_live.engine.pictures import PictureMaker, check_size
from emo_live.engine.schedule import FewStepSampler, check_steps
from emo_live.engine.test_pattern import TestPatternEngine
from emo_live.engine.window import LIVE, Controls, RollingWindow, WindowPolicy
from emo_live.errors import BadInputError
from emo_live.media.image import mixed
from emo_live.types import Float32, UInt8

LENGTHS = LIVE.lengths  # windows that may run: the short one answers soon, the long one costs less a frame
SHORT = WindowPolicy(LENGTHS[:1])
SMALL_PX = 256
_KEPT_AVATARS = 8  # prepared ones, some MB each


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What may change while an engine runs.

    steps: denoising steps. small: pictures are made at 256 px and enlarged. sparse: only every second picture is made,
    the ones between are mixed, which needs long windows. patient: sound comes early enough for long windows.
    """

    controls: Controls = field(default_factory=Controls)
    steps: int = 1
    small: bool = False
    sparse: bool = False
    patient: bool = True


@dataclass(frozen=True, slots=True)
class LiveSpec:
    """One engine for one session. Raises BadInputError for values that cannot be used.

    size: side of the pictures in px. start: index of its first step.
    """

    avatar: Avatar
    size: int = 512
    seed: int = 0
    settings: LiveSettings = field(default_factory=LiveSettings)

    def __post_init__(self) -> None:
        check_size(self.size)
        check_steps(self.settings.steps)
        if not 0 <= self.seed < 2**63:
            raise BadInputError(f"seed must be 0 to {2**63 - 1}, not {self.seed}")


class LiveEngine(Engine, Protocol):
    """An engine whose settings can be changed between two calls."""

    def adjust(self, settings: LiveSettings) -> None: ...


class EngineHost(Protocol):
    """Makes engines that share what is expensive. `open` may come from another thread than the rest."""

    def warm(self) -> None:
        """Returns when engines can run at full speed."""

    def open(self, spec: LiveSpec) -> LiveEngine: ...

    def close(self) -> None: ...


# Called between any two pieces of work; raises when nobody wants the result any more.
Checkpoint = Callable[[], None]
# threads, checkpoint -> host. Must be importable by name: it is called in the engine process.
EngineFactory = Callable[[int, Checkpoint], EngineHost]


def no_checkpoint() -> None:
    """For engines that nobody watches."""


class _Guard:
    """Stands before a backend: work on a window passes the checkpoint first, everything else is the backend's own."""

    _FREE = ("prepare", "close")  # may come from another thread, and are not work on a window

    def __init__(self, backend: Backend, checkpoint: Checkpoint) -> None:
        self._backend, self._checkpoint = backend, checkpoint

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if not callable(found) or name in self._FREE:
            return found

        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._checkpoint()
            return found(*args, **kwargs)

        return guarded


def guarded_backend(backend: Backend, checkpoint: Checkpoint) -> Backend:
    """The backend, with a checkpoint before every piece of work on a window."""
    return cast(Backend, _Guard(backend, checkpoint))


class WindowEngine:
    """The rolling window with settings that can change. `backend` is shared, the rest is this session's own.

    long_are_warm: whether long windows can run; short ones always can.
    """

    def __init__(
        self, backend: Backend, avatar: Prepared, spec: LiveSpec, long_are_warm: Callable[[], bool] = lambda: True
    ) -> None:
        self._size = spec.size
        self._settings = replace(spec.settings, small=False, sparse=False)
        self._long_are_warm = long_are_warm
        self._window = RollingWindow(
            backend,
            avatar,
            size=spec.size,
            seed=spec.seed,
            steps=spec.settings.steps,
            controls=spec.settings.controls,
            policy=LIVE,
        )
        self.shape = self._window.shape
        self.finish, self.cancel, self.rewind = self._window.finish, self._window.cancel, self._window.rewind
        self.frames = self._window.frames
        self.adjust(spec.settings)

    def push(self, pcm: Float32) -> None:
        self._window.policy = (
            LIVE if (self._settings.patient or self._settings.sparse) and self._long_are_warm() else SHORT
        )
        self._window.push(pcm)

    def adjust(self, settings: LiveSettings) -> None:
        window, old = self._window, self._settings
        self._settings = settings
        window.controls = settings.controls
        if settings.steps != old.steps:
            window.sampler = FewStepSampler(TINY.emo.schedule, settings.steps)
        if (settings.small, settings.sparse) != (old.small, old.sparse):
            size = min(self._size, SMALL_PX) if settings.small else self._size
            maker = PictureMaker(window.backend, window.avatar, size)
            window.pictures = _Cheaper(maker, self._size, settings.sparse)  # type: ignore[assignment]


class _Cheaper:
    """A picture maker that makes smaller or fewer pictures, and delivers the same size and number."""

    def __init__(self, maker: PictureMaker, size: int, sparse: bool) -> None:
        self._maker, self._size, self._sparse = maker, size, sparse
        self._last: UInt8 | None = None

    def make(self, latents: Float32) -> list[UInt8]:
        # Half of a long window is as many pictures as a short one has: nothing new has to be compiled.
        if self._sparse and len(latents) == 2 * LENGTHS[0]:
            made = self._maker.make(latents[1::2])
            befores = [made[0] if self._last is None else self._last, *made]
            pairs = zip(befores, made, strict=False)
            pictures = [picture for before, after in pairs for picture in (mixed(before, after, 0.5), after)]
        else:
            pictures = self._maker.make(latents)
        self._last = pictures[-1]
        return [_enlarged(picture, self._size) for picture in pictures]


def _enlarged(picture: UInt8, size: int) -> UInt8:
    if picture.shape[0] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


class TinyHost:
    """The shipped model on OpenVINO. cache: a folder in which a later host finds some of it compiled."""

    def __init__(self, threads: int, checkpoint: Checkpoint, cache: Path | None = None) -> None:
        from emo_live.engine.backend_openvino import OpenVinoBackend

        self._openvino = OpenVinoBackend(threads=threads, cache=cache)
        self._backend = guarded_backend(self._openvino, checkpoint)
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()

    def warm(self) -> None:
        """Short windows run when this returns; long ones are compiled meanwhile, and used as soon as they can be."""
        self._openvino.warm(LENGTHS)
        self._openvino.wait(LENGTHS[0])

    def open(self, spec: LiveSpec) -> LiveEngine:
        avatar = spec.avatar
        if avatar.id not in self._prepared:
            self._prepared[avatar.id] = self._backend.prepare(avatar)
            if len(self._prepared) > _KEPT_AVATARS:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(avatar.id)
        return WindowEngine(self._backend, self._prepared[avatar.id], spec, self._long_are_warm)

    def _long_are_warm(self) -> bool:
        return all(self._openvino.is_warm(length) for length in LENGTHS)

    def close(self) -> None:
        self._backend.close()


class PatternEngine(TestPatternEngine):
    """The test pattern has nothing to adjust."""

    __test__ = False

    def adjust(self, settings: LiveSettings) -> None:
        """Nothing to do."""


class PatternHost:
    """Flash and beep, without a model: for timing tests and first steps."""

    def __init__(self, threads: int, checkpoint: Checkpoint) -> None:
        """It works in no time, on any thread."""

    def warm(self) -> None:
        """Nothing to do."""

    def open(self, spec: LiveSpec) -> LiveEngine:
        return PatternEngine(spec.size)

    def close(self) -> None:
        """Nothing to do."""


_NAMED: dict[str, EngineFactory] = {"tiny": TinyHost, "pattern": PatternHost}


def factory_of(engine: str | EngineFactory) -> EngineFactory:
    """By name, or as it is. Raises BadInputError for a name that is none."""
    if not isinstance(engine, str):
        return engine
    if engine not in _NAMED:
        raise BadInputError(f"there is no engine {engine!r}: use {' or '.join(map(repr, _NAMED))}")
    return _NAMED[engine]
