"""What a live avatar says and shows next: the logic of a session, without tasks and without a clock of its own.

It gives the engine speech or, when there is none, silence; cuts idle steps short when speech begins; drops everything
unheard on an interrupt; and joins what comes back into pairs. A cut is a new epoch: the engine goes back to the last
frame that was shown and whatever belongs to an older epoch is dropped where it turns up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from emo_live.audio.utterance import SILENCE, SpeechQueue, Step, Utterance
from emo_live.engine.lane import Lane, LaneFrame
from emo_live.engine.live import SMALL_PX, LiveSettings
from emo_live.events import (
    Degraded,
    Event,
    Heard,
    Recovered,
    SessionStats,
    State,
    StateChanged,
    UtteranceFinished,
    UtteranceStarted,
)
from emo_live.media.image import mixed
from emo_live.media.ladder import HELD, RUNGS, Ladder
from emo_live.media.playout import Playout
from emo_live.media.seam import Seam
from emo_live.types import STEP_S, AVPair, Int16, UInt8

LEAST_MARGIN_STEPS = 4  # frames that wait when the engine begins the next window: 160 ms, or a long window
STALL_S = 0.2  # without new sound an unfinished utterance counts as a pause
_QUIET_TICKS = 10  # of idle pairs within an utterance, after which the avatar listens
_EXPECTED_TICKS = 5  # without pictures after a cut: nobody's fault
_FADE_TICKS = 8  # from the last picture of an engine that was lost to those of the next one
_WORK_MS = 25.0  # a guess until frames have come


@dataclass
class Counters:
    """What happened so far; see SessionStats."""

    pairs: int = 0
    held: int = 0
    underruns: int = 0
    interrupts: int = 0
    restarts: int = 0
    first_frame_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    work_ms: float = 0.0  # running mean of a frame


class Conversation:
    """now: seconds on the session's clock; say: takes events. Ticks may begin when `playout` has frames."""

    def __init__(
        self, lane: Lane, settings: LiveSettings, now: Callable[[], float], say: Callable[[Event], None]
    ) -> None:
        self.lane, self.settings = lane, settings
        timing = lane.timing
        self._short = min(timing.lengths)
        self.margin_steps = max(LEAST_MARGIN_STEPS, timing.longest)
        self._ahead_steps = timing.longest + timing.look_ahead + self.margin_steps
        self._start_steps = self._short + timing.look_ahead  # of speech, for the first window
        self._patient_steps = 2 * timing.longest  # of speech that waits: enough for long windows
        self.queue, self.playout, self.count = SpeechQueue(), Playout(), Counters()
        self.paused = False
        self._now, self._say = now, say
        self._seam = Seam()
        self._sounding: str | None = None  # the utterance that the last pair had sound of
        self._broken: str | None = None  # the one that was cut off in its middle and may go on
        self._picture: UInt8 = np.zeros((*lane.shape, 3), np.uint8)  # the last one shown
        self._speaking = False  # the engine is being given speech
        self._down = False  # there is no engine
        self._was_held = False
        self._fading = 0  # pictures that are still mixed with the last one of another engine
        self._tick = 0
        self._not_before = 0  # tick at which new speech may be heard
        self._cut_at = 0  # tick
        self._late_ticks = 0  # that the engine kept us waiting, up to now
        self._quiet_ticks = _QUIET_TICKS
        self._asked_steps = settings.steps
        shrinks = timing.can_shrink and max(lane.shape) > SMALL_PX
        self._ladder = Ladder([1] * (settings.steps > 1) + [2] * shrinks + [3])
        self._state: State = "idle"

    @property
    def state(self) -> State:
        return self._state

    # -- what goes in ------------------------------------------------------------------------------------------------

    def feed(self) -> None:
        """Something changed: give the engine what it may have now."""
        self._update_state()
        if self._down or self.level == HELD:
            return
        if not self._speaking and self._can_start():
            self._start()
        while self.playout.ahead < self._ahead_steps:
            step = self._next_step()
            if step is None:
                return
            if not self.lane.push(self.playout.epoch, self.playout.next, step.model):
                self.queue.put_back([step])
                return
            self.playout.send(step)

    def _next_step(self) -> Step | None:
        """None: wait for sound that is about to come."""
        utterance = self.queue.feeding() if self._speaking else None
        if utterance is None:
            self._speaking = False
            return SILENCE
        if utterance.steps:
            self._set_patience(utterance)
            return utterance.take()
        if self._now() - utterance.newest_at < STALL_S:
            return None
        self._speaking = False
        return SILENCE

    def _can_start(self) -> bool:
        utterance = self.queue.feeding()
        if self.paused or utterance is None or not utterance.steps or self.playout.speech_awaited:
            return False
        complete = utterance.ended or self._now() - utterance.newest_at >= STALL_S
        return complete or len(utterance.steps) >= self._start_steps

    def _start(self) -> None:
        """Speech is there: idle steps that were not shown give way to it, but for what bridges the first window."""
        utterance = self.queue.feeding()
        assert utterance is not None, "there is speech to start with"
        self._speaking = True
        self._set_patience(utterance)
        bridge = math.ceil(self._short * (self.count.work_ms or _WORK_MS) / 1000 / STEP_S) + 1
        # Sound that comes no faster than it is heard: the next window must be ready before the first is over.
        self._not_before = self._tick + (0 if self.settings.patient else bridge)
        self._cut(max(bridge, self.playout.speech_ready), "idle")

    def _set_patience(self, utterance: Utterance) -> None:
        self.adjust(patient=utterance.ended or len(utterance.steps) >= self._patient_steps)

    def adjust(self, **changes: object) -> None:
        """Change fields of the settings."""
        changed = replace(self.settings, **changes)  # type: ignore[arg-type]
        if changed != self.settings:
            self.settings = changed
            self.lane.adjust(changed)

    # -- turns -------------------------------------------------------------------------------------------------------

    def interrupt(self) -> Heard:
        """Nothing more of what was said is heard. Returns how far it came."""
        first = self.queue.first
        heard = Heard(first.name, self._ms(first)) if first else Heard(None, 0)
        self.count.interrupts += 1
        self._break_off()
        gone = self.queue.clear()
        self._unsay("interrupted")
        for utterance in gone:
            self._say(UtteranceFinished(utterance.name, self._ms(utterance), interrupted=True))
        self._quiet_ticks = _QUIET_TICKS
        self.feed()
        return heard

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._break_off()
            self.queue.put_back(self._unsay("paused"))
            self._update_state()
            self.feed()

    def resume(self) -> None:
        self.paused = False
        self.feed()

    def _unsay(self, reason: str) -> list[Step]:
        """Drop speech that was not heard; idle frames before it may stay."""
        self._speaking = False
        if self.playout.speech_ready or self.playout.speech_awaited:
            return self._cut(self.playout.idle_ready, reason)
        return []

    def _cut(self, keep: int, reason: str) -> list[Step]:
        gone = self.playout.cut(keep, reason)
        self._cut_at = self._tick
        self.lane.rewind(self.playout.epoch, self.playout.next)
        return gone

    @staticmethod
    def _ms(utterance: Utterance) -> int:
        return round(utterance.heard * STEP_S * 1000)

    # -- the engine --------------------------------------------------------------------------------------------------

    def frame_came(self, frame: LaneFrame) -> None:
        if self.playout.arrived(frame.epoch, frame.index, frame.video, frame.heard):
            mean = self.count.work_ms or frame.work_ms
            self.count.work_ms = mean + 0.05 * (frame.work_ms - mean)

    def engine_lost(self, reason: str) -> None:
        """What was not shown is given to the next engine; until then the last picture is held."""
        self._down = True
        self._late_ticks = 0
        self.count.restarts += 1
        self.queue.put_back(self._cut(self.playout.depth, "engine lost"))
        self._speaking = False
        self._say(Degraded(self.level, reason))

    def engine_back(self) -> None:
        self._down = False
        self._fading = _FADE_TICKS
        self.lane.adjust(self.settings)
        self.lane.rewind(self.playout.epoch, self.playout.next)
        self._ladder.forgive()
        self._say(Recovered(self.level))
        self.feed()

    @property
    def level(self) -> int:
        """Rung of the ladder."""
        return self._ladder.level

    def _climb(self) -> None:
        """A picture was shown: ask less of an engine that was late, more of one that was not."""
        down = self._ladder.tick(self._late_ticks)
        self._late_ticks = 0
        if not down:
            return
        level = self.level
        self.adjust(steps=1 if level >= 1 else self._asked_steps, small=level >= 2, sparse=level >= 3)
        if level == HELD:
            self.queue.put_back(self._cut(0, "held"))
            self._speaking = False
        if down > 0:
            self._say(Degraded(level, f"the engine is too slow, {self.count.work_ms:.0f} ms a frame: {RUNGS[level]}"))
        else:
            self._say(Recovered(level))

    # -- what comes out ----------------------------------------------------------------------------------------------

    def tick(self, index: int) -> AVPair:
        """The pair that is due."""
        self._tick = index
        sound = self._joined(self._advance())
        self.count.pairs += 1
        self.lane.shown(self.playout.shown)
        self.feed()
        return AVPair(index, self._picture, sound)

    def _joined(self, step: Step) -> Int16:
        """The step's sound, without a click where it does not follow what was heard before."""
        if step.utterance != self._sounding:
            self._break_off()
        rises = step.utterance is not None and step.utterance == self._broken
        if rises:
            self._broken = None
        self._sounding = step.utterance
        return self._seam.joined(step.heard, rises=rises)

    def _break_off(self) -> None:
        """The next pair has no more of what is heard now. Nothing to do for what was spoken to its end."""
        utterance = self.queue.named(self._sounding) if self._sounding is not None else None
        self._sounding = None
        if utterance is None:
            return
        following = self.playout.next_of(utterance.name) or next(iter(utterance.steps), None)
        self._seam.cut(following.heard if following else None)
        self._broken = utterance.name

    def _advance(self) -> Step:
        """Moves on by one pair: the picture in `_picture`, and the step that is heard."""
        if self.level == HELD:
            self._climb()
            return self._heard(self._step_without_picture())
        first = self.playout.first()
        if first is not None and first.utterance is not None and self._tick < self._not_before:
            return self._hold(underrun=False)
        ready = self.playout.take()
        if ready is None:
            expected = (
                self._down or self.playout.ahead < self._start_steps or self._tick - self._cut_at <= _EXPECTED_TICKS
            )
            self._late_ticks += not expected
            return self._hold(underrun=True)
        self._climb()
        self._was_held = False
        self._picture = self._faded(ready.video)
        return self._heard(ready.step)

    def _faded(self, picture: UInt8) -> UInt8:
        """Another engine begins with a face at rest, wherever the face was: no jump."""
        if not self._fading:
            return picture
        share = 1 / self._fading
        self._fading -= 1
        return mixed(self._picture, picture, share)

    def _step_without_picture(self) -> Step:
        self.count.held += 1
        self._speaking = self._speaking or self._can_start()
        return self._next_step() or SILENCE

    def _hold(self, underrun: bool) -> Step:
        self.count.held += 1
        self.count.underruns += underrun and not self._was_held
        self._was_held = underrun
        return SILENCE

    def _heard(self, step: Step) -> Step:
        """It goes to sinks now."""
        if step.utterance is None:
            self._quiet_ticks += 1
        else:
            self._quiet_ticks = 0
            self._count_heard(step.utterance)
        return step

    def _count_heard(self, name: str) -> None:
        utterance = self.queue.named(name)
        if utterance is None:
            return
        if utterance.heard == 0:
            if utterance.pushed_at is not None and not utterance.waited:
                self.count.first_frame_ms.append((self._now() - utterance.pushed_at) * 1000)
            self._say(UtteranceStarted(name))
        utterance.heard += 1
        self.finish_spoken()

    def finish_spoken(self) -> None:
        """Utterances that were heard to their end are over."""
        for utterance in self.queue.take_done():
            self._say(UtteranceFinished(utterance.name, self._ms(utterance), interrupted=False))

    def _update_state(self) -> None:
        first = self.queue.first
        if self.paused:
            state: State = "paused"
        elif first is None:
            state = "idle"
        else:
            state = "speaking" if first.heard and self._quiet_ticks < _QUIET_TICKS else "listening"
        if state != self._state:
            self._state = state
            self._say(StateChanged(state))

    def stats(
        self, *, uptime_s: float, late_ms: tuple[float, float], clock_jumps: int, sink_errors: int
    ) -> SessionStats:
        """Everything that is known here, and what the session knows."""
        count, first = self.count, self.count.first_frame_ms
        return SessionStats(
            state=self._state,
            uptime_s=round(uptime_s, 3),
            pairs=count.pairs,
            first_frame_ms=round(first[-1], 1) if first else None,
            first_frame_p50_ms=round(float(np.median(first)), 1) if first else None,
            playout_depth_ms=round(self.playout.depth * STEP_S * 1000),
            queued_ms=round(self.queue.queued_steps * STEP_S * 1000),
            underruns=count.underruns,
            held=count.held,
            dropped=dict(self.playout.dropped),
            pacer_late_p50_ms=round(late_ms[0], 2),
            pacer_late_p95_ms=round(late_ms[1], 2),
            clock_jumps=clock_jumps,
            engine_ms_per_frame=round(count.work_ms, 2),
            headroom=round(max(0.0, 1 - count.work_ms / 1000 / STEP_S), 3),
            level=self.level,
            restarts=count.restarts,
            interrupts=count.interrupts,
            sink_errors=sink_errors,
        )
