"""What a session sees of an engine, wherever it runs: a lane that takes steps and gives frames.

Nothing here blocks. A lane belongs to one session and one event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from emo_live.engine.limits import Limits
from emo_live.engine.live import LiveSettings, LiveSpec, Timing
from emo_live.types import Float32, Int16, UInt8


@dataclass(frozen=True, slots=True)
class LaneFrame:
    """A frame as it comes out of a lane.

    video, heard: as in EngineFrame. work_ms: what the engine spent on it.
    """

    epoch: int
    index: int
    video: UInt8
    heard: Int16 | None
    work_ms: float


class LaneOwner(Protocol):
    """What a lane tells its session, on the session's loop."""

    def frame_came(self, frame: LaneFrame) -> None: ...

    def engine_lost(self, reason: str) -> None:
        """Steps in flight are lost, and no others are taken until `engine_back`."""

    def engine_back(self) -> None:
        """Another engine takes steps, after `adjust` and `rewind` have told it where to go on."""

    def engine_gone(self, reason: str) -> None:
        """There will be no other one."""


class Lane(Protocol):
    """shape: (H, W) of the frames. timing: of the engine's windows."""

    shape: tuple[int, int]

    @property
    def timing(self) -> Timing: ...

    def push(self, epoch: int, index: int, pcm: Float32) -> bool:
        """Give the next step; False if there is no room now. pcm: (640,)."""

    def rewind(self, epoch: int, index: int) -> None:
        """From now on only steps of `epoch` count, the next one is `index`, and frames from there on are not shown."""

    def adjust(self, settings: LiveSettings) -> None: ...

    def shown(self, index: int) -> None:
        """The next frame that will be shown: how urgent this lane is."""

    async def close(self) -> None: ...


class Lanes(Protocol):
    """Where lanes come from: a pool of engine processes, or a stand-in. limits: what their engines can be asked for."""

    limits: Limits

    async def open(self, spec: LiveSpec, owner: LaneOwner) -> Lane:
        """Raises BadInputError beyond the limits, NotReadyError without room, EngineError if it cannot start."""
