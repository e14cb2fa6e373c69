"""The voice stays in front: what is turned down, what is not, and when."""

from __future__ import annotations

import numpy as np
import pytest

from emo_live.audio.foreground import BLOCK, FALL_DB, MOST_DB, Listening, foreground
from emo_live.types import MODEL_RATE_HZ


def sound(*parts: tuple[float, float]) -> np.ndarray:
    """Noise that lasts so many seconds at such a level (dB of full scale), one part after the other."""
    random = np.random.default_rng(0)
    return np.concatenate([
        random.normal(size=round(seconds * MODEL_RATE_HZ)) * 10 ** (level / 20) for seconds, level in parts
    ]).astype(np.float32)  # fmt: skip


def gain_db(pcm: np.ndarray, start_s: float, end_s: float) -> float:
    """Of what comes out, between two moments."""
    heard = slice(round(start_s * MODEL_RATE_HZ), round(end_s * MODEL_RATE_HZ))
    out = foreground(pcm, Listening())[0]
    return float(10 * np.log10(np.square(out[heard]).sum() / np.square(pcm[heard]).sum()))


@pytest.mark.parametrize(("parts", "when", "least", "most"), [
    (((3, -30),), (0, 3), -0.1, 0),  # one level, whichever: as it was
    (((3, -60),), (0, 3), -0.1, 0),
    (((2, -45), (2, -20)), (0, 4), -0.1, 0),  # softer before the first voice
    (((2, -20), (2, -21)), (0, 4), -2.5, 0),  # a voice goes up and down
    (((2, -20), (2, -32)), (2.6, 4), -MOST_DB, 1 - MOST_DB),  # others behind, in a pause
    (((2, -20), (2, -32), (0.5, -20)), (4.02, 4.5), -0.5, 0),  # and it speaks again
    (((2, -20), (1.5 + 12 / FALL_DB, -32)), (2 + 12 / FALL_DB, 3 + 12 / FALL_DB), -0.5, 0),  # somebody else speaks
    (((1, -40), (0.03, -6), (2, -40)), (1.2, 3), -1.5, 0),  # a knock is no voice
])  # fmt: skip
def test_what_is_turned_down(
    parts: tuple[tuple[float, float], ...], when: tuple[float, float], least: float, most: float
) -> None:
    assert least <= gain_db(sound(*parts), *when) <= most + 1e-3


def test_it_opens_at_once() -> None:
    pcm = sound((2, -20), (1, -40), (1, -20))
    assert gain_db(pcm, 3.0, 3.005) < -3 < -0.5 < gain_db(pcm, 3.015, 3.02), "a syllable's onset is heard"


@pytest.mark.parametrize("blocks", [1, 8, 37])
def test_pieces_are_as_the_whole(blocks: int) -> None:
    pcm = sound((1, -20), (1, -30), (0.5, -20))
    whole, listening = foreground(pcm, Listening())
    parts, so_far = [], Listening()
    for start in range(0, len(pcm), blocks * BLOCK):
        part, so_far = foreground(pcm[start : start + blocks * BLOCK], so_far)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert so_far == listening


def test_silence_stays_silence() -> None:
    out, listening = foreground(np.zeros(MODEL_RATE_HZ, np.float32), Listening())
    assert not out.any() and listening.gain_db == 0
