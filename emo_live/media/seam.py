"""Joins sounds that do not follow each other, without a click: what is cut off falls to silence within 8 ms, what goes
on after a break rises as fast.

Knows nothing of utterances. Samples are int16 at 48 kHz. No threads, no clock.
"""

from __future__ import annotations

import numpy as np

from emo_live.types import Float32, Int16

FADE_SAMPLES = 384  # 8 ms
# Raised cosine: neither the level nor its slope has a step.
_RISE = (0.5 - 0.5 * np.cos(np.pi * (np.arange(FADE_SAMPLES) + 0.5) / FADE_SAMPLES)).astype(np.float32)
_FALL = _RISE[::-1]


class Seam:
    """Everything that is heard goes through `joined`, in order."""

    def __init__(self) -> None:
        self._last = 0  # sample
        self._tail: Float32 | None = None  # what is still heard of the sound that was cut off

    def cut(self, following: Int16 | None) -> None:
        """What is heard ends here. following: (S,) how it would have gone on, None where nobody knows."""
        rest = np.full(FADE_SAMPLES, self._last) if following is None else following[:FADE_SAMPLES]
        self._tail = rest * _FALL

    def joined(self, sound: Int16, *, rises: bool) -> Int16:
        """(1920,) what goes out. rises: this sound is one that was cut off before."""
        if rises or self._tail is not None:
            mixed = sound.astype(np.float32)
            if rises:
                mixed[:FADE_SAMPLES] *= _RISE
            if self._tail is not None:
                mixed[:FADE_SAMPLES] += self._tail
            self._tail = None
            sound = np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)
        self._last = int(sound[-1])
        return sound
