"""The playout buffer: joins every frame with the sound of its step, and holds both together until they are due.

It numbers the steps that go to the engine and knows which of its frames were shown. Bounded by whoever sends steps. No
threads, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from emo_live.audio.utterance import Step
from emo_live.types import Int16, UInt8


@dataclass(frozen=True, slots=True)
class Ready:
    """A step with its picture."""

    step: Step
    video: UInt8


class Playout:
    """epoch: frames of an older one are dropped. next: index of the next step sent; shown: of the next frame shown."""

    def __init__(self) -> None:
        self.epoch = 0
        self.next = 0
        self.shown = 0
        self.dropped: dict[str, int] = {}
        self._sent: deque[Step] = deque()  # steps `made` to `next`, without pictures yet
        self._ready: deque[Ready] = deque()  # steps `shown` to `made`

    @property
    def made(self) -> int:
        """Index of the next frame that comes from the engine."""
        return self.shown + len(self._ready)

    @property
    def depth(self) -> int:
        """Pairs that could be shown now."""
        return len(self._ready)

    @property
    def ahead(self) -> int:
        """Steps sent and not shown, with or without pictures."""
        return self.next - self.shown

    @property
    def awaited(self) -> bool:
        """Whether the engine has steps whose frames have not come."""
        return bool(self._sent)

    def send(self, step: Step) -> int:
        """The step's index."""
        self._sent.append(step)
        self.next += 1
        return self.next - 1

    def arrived(self, epoch: int, index: int, video: UInt8, heard: Int16 | None = None) -> bool:
        """A frame came from the engine; False if nobody waits for it. heard: sound that replaces the step's."""
        if epoch != self.epoch or index != self.made or not self._sent:
            self._count("stale", 1)
            return False
        step = self._sent.popleft()
        if heard is not None:
            step = Step(step.model, heard, step.utterance)
        self._ready.append(Ready(step, video))
        return True

    def first(self) -> Step | None:
        """The step that is shown next, if its picture is there."""
        return self._ready[0].step if self._ready else None

    @property
    def speech_ready(self) -> int:
        """How many ready pairs there are up to the last one with speech."""
        return max((i for i, ready in enumerate(self._ready, 1) if ready.step.utterance), default=0)

    @property
    def idle_ready(self) -> int:
        """How many ready pairs there are before the first one with speech."""
        return next((i for i, ready in enumerate(self._ready) if ready.step.utterance), len(self._ready))

    @property
    def speech_awaited(self) -> bool:
        """Whether the engine has speech whose frames have not come."""
        return any(step.utterance for step in self._sent)

    def next_of(self, utterance: str) -> Step | None:
        """The first step of an utterance that was sent and not shown."""
        sent = [*(ready.step for ready in self._ready), *self._sent]
        return next((step for step in sent if step.utterance == utterance), None)

    def take(self) -> Ready | None:
        """The next pair to show; None if its picture is missing: then both media are held."""
        if not self._ready:
            return None
        self.shown += 1
        return self._ready.popleft()

    def cut(self, keep: int, reason: str) -> list[Step]:
        """A new epoch: all but the first `keep` ready pairs are gone. Returns the steps that were not shown, in order.

        The engine must go back to index `next`.
        """
        gone = [ready.step for ready in list(self._ready)[keep:]] + list(self._sent)
        self._count(reason, len(self._ready) - min(keep, len(self._ready)))
        self._ready = deque(list(self._ready)[:keep])
        self._sent.clear()
        self.epoch += 1
        self.next = self.made
        return gone

    def _count(self, reason: str, pairs: int) -> None:
        if pairs:
            self.dropped[reason] = self.dropped.get(reason, 0) + pairs
