"""A pack's portraits as puppets: pictures with any ARKit weights and head pose, and exact labels for them.

Ties pack, head and renderer together. One OpenGL context, one thread. Weights are (52,) in the pack's order; poses are
(6,) yaw, pitch, roll in radians, x, y, z in cm relative to the portrait's own. Where several processes draw side by
side, set LP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 before they start.
"""

from __future__ import annotations

import numpy as np

from emo_live.training.pack import Pack
from emo_live.training.puppets import anatomy
from emo_live.training.puppets.head import arkit_matrix, load_head
from emo_live.training.puppets.puppet import Puppet
from emo_live.training.puppets.renderer import Renderer, Scene
from emo_live.training.puppets.view import OVERSCAN, View
from emo_live.types import Float32, UInt8

MOTION_SIDE = 128
LEAST_SHARE = 0.05  # pixels with less of the portrait in them have no flow
INCISOR_CM = 0.5  # teeth nearer to the middle of the head than this are the two incisors
_WHOLE = View()


class PuppetTheatre:
    def __init__(self, pack: Pack):
        self._pack = pack
        self._head = load_head(pack.folder / "ict.npz")
        self._to_ict = arkit_matrix(pack.arkit_names, self._head.expression_names)
        with np.load(pack.folder / "corr.npz") as data:
            self._matches = data["mp"].astype(np.int64), data["ic"].astype(np.int64)
        self._renderer = Renderer(self._head)

    def close(self) -> None:
        self._renderer.close()

    def cast(self, name: str) -> None:
        """Makes a portrait the current puppet."""
        self._portrait, self._fit = self._pack.portrait(name), self._pack.fit(name)
        self._puppet = Puppet(self._head, self._portrait, self._fit, self._matches)
        self._renderer.load(self._puppet)

    def reference(self, size: int, view: View | None = None) -> UInt8:
        """(size, size, 3): the portrait as a view shows it. Flows point into it."""
        return (view or _WHOLE).crop(self._portrait, size)

    def outline(self, view: View | None = None) -> Float32:
        """(478, 2) face mesh points of the portrait in shares of `reference`."""
        return (view or _WHOLE).shares(self._fit.points[:, :2])

    def incisors(self, view: View | None = None) -> Float32:
        """(2,) the middle of the upper two in the portrait, shares of `reference`, seen or not."""
        inside = self._head.interior
        theirs = inside.teeth & inside.upper & (np.abs(self._head.neutral[:, 0]) < INCISOR_CM)
        middle: Float32 = (view or _WHOLE).shares(self._puppet.points[theirs]).mean(0)
        return middle

    def picture(self, arkit: Float32, pose: Float32, size: int = 256, view: View | None = None) -> UInt8:
        """(size, size, 3), anti-aliased."""
        return self._renderer.paint(self._scene(arkit, pose), view or _WHOLE, size)

    def square(self, arkit: Float32, pose: Float32, origin: tuple[float, float], side: int = 160) -> UInt8:
        """(side, side, 3): the square with the top left corner `origin`, x and y, of the 512 px picture."""
        return self.picture(arkit, pose, side, View.square(origin, side))

    def motion(self, arkit: Float32, pose: Float32, view: View | None = None) -> Float32:
        """(128, 128, 3): backward flow x, y, and hole.

        The pixel whose centre is at the share p of the view's side came from p + flow of the reference; hole is the
        share of a pixel that came from nowhere in it, the inside of the mouth. Flow is 0 where nearly all is hole.
        """
        view = view or _WHOLE
        traced = self._renderer.trace(self._scene(arkit, pose), view, MOTION_SIDE)
        share = traced[..., 2:]
        source = traced[..., :2] / np.maximum(share, np.float32(1e-3))
        factor, origin = np.float32(OVERSCAN * view.scale), view.shares(np.zeros((1, 2), np.float32))[0]
        centres = (np.arange(MOTION_SIDE, dtype=np.float32) + np.float32(0.5)) / MOTION_SIDE
        label = np.empty_like(traced)
        label[..., :2] = source * factor + origin
        label[..., 0] -= centres
        label[..., 1] -= centres[:, None]
        label[..., :2] *= share >= LEAST_SHARE
        label[..., 2:] = 1 - share
        return label

    def landmarks(self, arkit: Float32, pose: Float32, view: View | None = None) -> Float32:
        """(68, 2) in iBUG order, shares of the view's side."""
        points, _ = self._puppet.place(arkit @ self._to_ict, pose, self._head.landmarks)
        return (view or _WHOLE).shares(points)

    def boxes(self, arkit: Float32, pose: Float32, view: View | None = None) -> Float32:
        """(3, 4): mouth, eyes, face as x0, y0, x1, y1, shares of the view's side, within the picture."""
        return boxes(self.landmarks(arkit, pose, view))

    def _scene(self, arkit: Float32, pose: Float32) -> Scene:
        points, depth = self._puppet.place(arkit @ self._to_ict, pose)
        return Scene(points, depth, self._puppet.background.follow(points))


def boxes(landmarks: Float32) -> Float32:
    """(68, 2) shares -> (3, 4): mouth, eyes, face as x0, y0, x1, y1 with a margin, within 0..1."""
    rows = []
    for members, margin in anatomy.BOXES.values():
        low, high = landmarks[list(members)].min(0), landmarks[list(members)].max(0)
        pad = margin * (high - low).max()
        rows.append(np.concatenate([low - pad, high + pad]))
    return np.clip(np.stack(rows), 0, 1).astype(np.float32)
