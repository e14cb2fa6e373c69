"""From head space to the portrait: the turn about the neck, the fitted camera, perspective.

Head space is in cm, x to the right of the picture, y up, z towards the viewer; camera space has y down and z away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emo_live.training.puppets.view import PORTRAIT_PX
from emo_live.types import Float32

NECK = np.array([0.0, -9.0, -4.0], np.float32)  # what the head turns about, cm


def rotation(yaw: float, pitch: float, roll: float) -> Float32:
    """(3, 3) from radians: yaw to the right, pitch downwards, roll counter-clockwise, all as seen in the picture."""

    def about(axis: int, angle: float) -> Float32:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3, dtype=np.float32)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i], turn[i, j] = np.sin(angle), -np.sin(angle)
        return turn

    return np.asarray(about(1, yaw) @ about(0, pitch) @ about(2, roll), np.float32)


@dataclass(frozen=True, slots=True)
class Camera:
    """The camera that took the portrait. turn (3, 3); shift (3,) cm; focal px."""

    turn: Float32
    shift: Float32
    focal: float

    def moved(self, pose: Float32) -> Camera:
        """The camera that sees a resting head as this one sees it in a pose (6,): yaw, pitch, roll rad, x, y, z cm."""
        turn = rotation(*pose[:3].tolist())
        shift = self.turn @ (NECK - turn @ NECK + pose[3:]) + self.shift
        return Camera(self.turn @ turn, shift.astype(np.float32), self.focal)

    def space(self, vertices: Float32) -> Float32:
        """(V, 3) head space -> (V, 3) camera space."""
        return vertices @ self.turn.T + self.shift

    def project(self, seen: Float32) -> Float32:
        """(V, 3) camera space -> (V, 2) px of the portrait."""
        return seen[:, :2] * (np.float32(self.focal) / seen[:, 2:]) + np.float32(PORTRAIT_PX / 2)
