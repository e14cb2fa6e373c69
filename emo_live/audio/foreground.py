"""Keeps the voice in front: what stays well below it, such as people who speak behind, is turned down before a model
listens. What is heard is left alone.

A downward expander on blocks of 5 ms. The voice's level is the greatest mean level of 0.4 s of late, which falls
slowly, so that a pause of some seconds keeps it: 1.6 s of sound, which is what a model hears, do not tell whose
syllables they are. The mean is one of decibels, so that a knock, loud but short, is no voice. Nothing happens before
there was a voice. It opens at once and closes within tenths of a second; the sound is not delayed. Somebody who goes on
more softly is turned down as well, by no more than MOST_DB, which models do not mind, until the level has fallen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emo_live.types import MODEL_RATE_HZ, Float32

BLOCK = 80  # samples
BLOCK_S = BLOCK / MODEL_RATE_HZ
ONSET_S, SYLLABLE_S, MEAN_S = 0.015, 0.06, 0.4  # time constants: of the sound's level up and down, of the voice's
CLOSE_S = 0.15  # the same of turning down
FALL_DB = 1.0  # a second, of the voice's level while nothing is as loud
RATIO = 2.0  # dB of attenuation for each dB below the voice's level
MOST_DB = 10.0
SILENT_DB = -100.0  # of full scale


@dataclass(frozen=True, slots=True)
class Listening:
    """What the expander remembers. power: of the newest syllable; others in dB, of full scale or of attenuation."""

    power: float = 0.0
    mean_db: float = SILENT_DB
    voice_db: float = SILENT_DB
    gain_db: float = 0.0

    def next(self, power: float) -> Listening:
        """After one block more, of this mean square."""
        syllable = _smooth(self.power, power, ONSET_S if power > self.power else SYLLABLE_S)
        mean_db = _smooth(self.mean_db, _db(power), MEAN_S)
        voice_db = max(mean_db, self.voice_db - FALL_DB * BLOCK_S)
        wanted = -min(MOST_DB, RATIO * max(0.0, voice_db - _db(syllable)))
        gain_db = wanted if wanted > self.gain_db else _smooth(self.gain_db, wanted, CLOSE_S)
        return Listening(syllable, mean_db, voice_db, gain_db)


def _smooth(old: float, new: float, seconds: float) -> float:
    keep = math.exp(-BLOCK_S / seconds)
    return keep * old + (1 - keep) * new


def _db(power: float) -> float:
    return max(SILENT_DB, 10 * math.log10(power)) if power > 0 else SILENT_DB


def foreground(pcm: Float32, listening: Listening) -> tuple[Float32, Listening]:
    """pcm: (N BLOCK,) float32 at 16 kHz, which follows on the sound that `listening` comes from.

    Returns the same, (N BLOCK,), with its background turned down, and what to go on with.
    """
    blocks, gains = pcm.reshape(-1, BLOCK), [listening.gain_db]
    for power in np.square(blocks, dtype=np.float64).mean(1):
        listening = listening.next(float(power))
        gains.append(listening.gain_db)
    ends = np.asarray(gains)[:, None]
    gain_db = ends[:-1] + (ends[1:] - ends[:-1]) * (np.arange(1, BLOCK + 1) / BLOCK)
    return (blocks * 10 ** (gain_db / 20)).astype(np.float32).reshape(-1), listening
