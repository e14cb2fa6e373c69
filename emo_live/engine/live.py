"""Engines as live sessions use them: several share one host, and their quality can be changed while they run.

A host owns what is expensive (the compiled model) and lives where the engines run: in the engine process, or in a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from emo_live.avatar import Avatar
from emo_live.engine.base import Engine
from emo_live.engine.limits import TINY_LIMITS, Limits
from emo_live.engine.test_pattern import TestPatternEngine
from emo_live.engine.window import Controls, Generator, Latents, PicturesTaken, RollingWindow, WindowPolicy
from emo_live.errors import BadInputError
from emo_live.media.image import mixed
from emo_live.types import Float32, UInt8

SMALL_PX = 256


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What may change while an engine runs.

    steps: denoising steps. small: pictures are made at 256 px and enlarged, by engines that can. sparse: only every
    second picture is made, the ones between are mixed, which needs long windows. patient: sound comes early enough for
    long windows.
    """

    controls: Controls = field(default_factory=Controls)
    steps: int = 1
    small: bool = False
    sparse: bool = False
    patient: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """What whoever feeds an engine must know of its windows.

    lengths: of its windows in frames: the short one answers soon, the long one costs less a frame. look_ahead: steps
    of sound behind a frame that it needs. can_shrink: smaller pictures make it faster. piece_s: its longest piece of
    work between two checkpoints, about.
    """

    lengths: tuple[int, ...]
    look_ahead: int
    can_shrink: bool = False
    piece_s: float = 0.05

    @property
    def longest(self) -> int:
        return max(self.lengths)


@dataclass(frozen=True, slots=True)
class LiveSpec:
    """One engine for one session. Raises BadInputError for a seed that cannot be used; an engine's Limits say the rest.

    size: side of the pictures in px.
    """

    avatar: Avatar
    size: int = 512
    seed: int = 0
    settings: LiveSettings = field(default_factory=LiveSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise BadInputError(f"seed must be 0 to {2**63 - 1}, not {self.seed}")


class LiveEngine(Engine, Protocol):
    """An engine whose settings can be changed between two calls."""

    def adjust(self, settings: LiveSettings) -> None: ...


class EngineHost(Protocol):
    """Makes engines that share what is expensive. `open` may come from another thread than the rest.

    timing: final when it is warm.
    """

    @property
    def timing(self) -> Timing: ...

    def warm(self) -> None:
        """Returns when engines can run at full speed."""

    def open(self, spec: LiveSpec) -> LiveEngine: ...

    def close(self) -> None: ...


# Called between any two pieces of work; raises when nobody wants the result any more.
Checkpoint = Callable[[], None]
# threads, checkpoint -> host. Must be importable by name: it is called in the engine process. Its attribute `limits`
# says what can be asked of its engines; without one, what can be asked of the tiny model.
EngineFactory = Callable[[int, Checkpoint], EngineHost]


def limits_of(factory: EngineFactory) -> Limits:
    """What can be asked of the engines that it makes."""
    found = getattr(factory, "limits", TINY_LIMITS)
    assert isinstance(found, Limits), "`limits` of an engine factory is a Limits"
    return found


def no_checkpoint() -> None:
    """For engines that nobody watches."""


class LiveGenerator(Generator, Protocol):
    """A generator whose settings can be changed between two windows."""

    def adjust(self, settings: LiveSettings) -> None:
        """Everything but `sparse` and `patient`, which are about windows."""


class WindowEngine:
    """The rolling window with settings that can change. lengths: of its windows, the short one first.

    long_are_warm: whether long windows can run; short ones always can.
    """

    def __init__(
        self,
        generator: LiveGenerator,
        settings: LiveSettings,
        lengths: tuple[int, ...],
        long_are_warm: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings, self._long_are_warm = settings, long_are_warm
        self._all, self._short = WindowPolicy(lengths), WindowPolicy(lengths[:1])
        self.generator, self._sparing = generator, _Sparing(generator, lengths[-1])
        self._window = RollingWindow(self._sparing, self._all)
        self.shape = self._window.shape
        self.finish, self.cancel, self.rewind = self._window.finish, self._window.cancel, self._window.rewind
        self.frames = self._window.frames
        self.adjust(settings)

    def push(self, pcm: Float32) -> None:
        long = (self._settings.patient or self._settings.sparse) and self._long_are_warm()
        self._window.policy = self._all if long else self._short
        self._window.push(pcm)

    def adjust(self, settings: LiveSettings) -> None:
        self._settings = settings
        self.generator.adjust(settings)
        self._sparing.sparse = settings.sparse


class _Sparing:
    """A generator of which only every second picture of a long window is made, if `sparse`, and the others mixed."""

    def __init__(self, generator: Generator, longest: int) -> None:
        self.shape, self.carried, self.look_ahead = generator.shape, generator.carried, generator.look_ahead
        self.context_samples = generator.context_samples
        self.first, self.latents = generator.first, generator.latents
        self.sparse = False
        self._pictures, self._longest = generator.pictures, longest
        self._last: UInt8 | None = None

    def pictures(self, latents: Latents) -> PicturesTaken:
        # Half of a long window is as many pictures as a short one has, or a multiple: nothing new has to be compiled.
        sparse = self.sparse and len(latents) == self._longest
        taken = self._pictures(latents[1::2] if sparse else latents)

        def take() -> list[UInt8]:
            pictures = made = taken()
            if sparse:
                befores = [made[0] if self._last is None else self._last, *made]
                pairs = zip(befores, made, strict=False)
                pictures = [picture for before, after in pairs for picture in (mixed(before, after, 0.5), after)]
            self._last = pictures[-1]
            return pictures

        return take


class PatternEngine(TestPatternEngine):
    """The test pattern has nothing to adjust."""

    __test__ = False

    def adjust(self, settings: LiveSettings) -> None:
        """Nothing to do."""


class PatternHost:
    """Flash and beep, without a model: for timing tests and first steps."""

    timing = Timing((2, 4), 2, can_shrink=True)  # as if it were the tiny model

    def __init__(self, threads: int, checkpoint: Checkpoint) -> None:
        """It works in no time, on any thread."""

    def warm(self) -> None:
        """Nothing to do."""

    def open(self, spec: LiveSpec) -> LiveEngine:
        return PatternEngine(spec.size)

    def close(self) -> None:
        """Nothing to do."""
