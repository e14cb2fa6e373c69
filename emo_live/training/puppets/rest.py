"""The expression under every motion: a portrait that smiles or speaks comes to rest, its lips meet, its blinks close.

Works on ICT-FaceKit weights (57,). What it knows of a portrait is a function that measures openings in px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emo_live.training.puppets import anatomy
from emo_live.types import Float32

OWN_SHARE = 0.35  # of the portrait's jaw and mouth expression stays ...
LIP_GAP_PX = 0.3  # ... less of what opens the lips, until they are this far apart ...
LARGEST_JAW_LIFT = 0.08  # ... and then jawOpen goes below zero, down to this
OPENERS = ("jawOpen", "mouthLowerDown", "mouthUpperUp", "mouthFunnel", "mouthStretch", "mouthShrugUpper")
LARGEST_BLINK_GAIN = 1.5

# (expression (57,), landmarks above, landmarks below) -> mean opening in px
Opening = Callable[[Float32, Sequence[int], Sequence[int]], float]


def rest_expression(own: Float32, names: Sequence[str], opening: Opening) -> Float32:
    """own (57,): the expression fitted to the portrait -> (57,) what of it stays."""

    def lip_gap(expression: Float32) -> float:
        return opening(expression, anatomy.LIPS_ABOVE, anatomy.LIPS_BELOW)

    mouth = np.array([name.startswith(("jaw", "mouth")) for name in names])
    opens = np.array([name.startswith(OPENERS) for name in names])
    calm = np.where(mouth, own * np.float32(OWN_SHARE), own)
    shut = np.where(opens, np.float32(0), calm)
    shut_gap, calm_gap = lip_gap(shut), lip_gap(calm)
    kept = np.clip((LIP_GAP_PX - shut_gap) / max(calm_gap - shut_gap, 1e-3), 0, 1)
    rest = (shut + np.float32(kept) * (calm - shut)).astype(np.float32)

    jaw = np.array([name == "jawOpen" for name in names], np.float32)
    gap, trial = lip_gap(rest), 0.1
    closes_per_lift = max(gap - lip_gap(rest - np.float32(trial) * jaw), 1e-3) / trial
    lift = np.clip((gap - LIP_GAP_PX) / closes_per_lift, 0, LARGEST_JAW_LIFT)
    return rest - np.float32(lift) * jaw


def motion_gain(own: Float32, names: Sequence[str], opening: Opening) -> Float32:
    """(57,) factors on motion: for blinks the one with which this portrait's lids meet at weight 1, otherwise 1."""
    blink = np.array([name.startswith("eyeBlink") for name in names], np.float32)
    awake = opening(own, anatomy.LIDS_ABOVE, anatomy.LIDS_BELOW)
    closed = opening(own + blink, anatomy.LIDS_ABOVE, anatomy.LIDS_BELOW)
    gain = np.clip(awake / max(awake - closed, 1e-3), 1, LARGEST_BLINK_GAIN)
    return np.where(blink > 0, np.float32(gain), np.float32(1))
