"""One portrait cast on the head: all that does not change from frame to frame, and where the vertices of a frame lie.

Knows nothing of OpenGL. Pixels are the 512 px portrait's, y down; head space in cm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from emo_live.training.pack import Fit
from emo_live.training.puppets import anatomy, mouth, teeth
from emo_live.training.puppets.background import Background
from emo_live.training.puppets.camera import Camera
from emo_live.training.puppets.head import Head
from emo_live.training.puppets.mesh import Int
from emo_live.training.puppets.residual import spread_residual
from emo_live.training.puppets.rest import motion_gain, rest_expression
from emo_live.training.puppets.view import PORTRAIT_PX
from emo_live.types import Float32, UInt8

INCISORS_CM = 0.42  # upper incisors end this far below the resting lip ...
OWN_INCISORS_CM = 0.3, 0.7  # ... or within these limits where the portrait shows them


class Puppet:
    """texture (512, 512, 4) uint8: the portrait, and its own teeth; texture_points (V, 2) px: where a vertex takes its
    colour; colours (V, 4) in 0..1: of the mouth's inside, and opacity of the rest; points (V, 2) px: in the portrait.
    """

    def __init__(self, head: Head, portrait: UInt8, fit: Fit, matches: tuple[Int, Int]):
        """portrait (512, 512, 3); matches: face mesh points (K,) and the vertices of ICT-FaceKit (K,) they lie on."""
        self._head, self._camera = head, Camera(fit.rotation, fit.translation, fit.focal)
        self._own = np.clip(fit.expression, 0, None)
        self._shape = head.neutral + np.tensordot(fit.identity, head.identity, 1)
        shown = teeth.find_teeth(portrait, fit.points)
        seen = self._camera.space(self._shape + self._expressed(self._own))
        self._residual = spread_residual(head, self._camera.project(seen), fit.points, matches)
        self._place_upper_teeth(seen, shown.edge_px)

        seen = self._camera.space(self._shape + self._expressed(self._own))
        self.points = self._camera.project(seen) + self._residual
        self.texture = np.dstack([portrait, shown.mask])
        self.texture_points = self._keep_off_open_mouth(fit.points)
        normals = head.inside_normals(self._shape)
        self.colours = mouth.paint(head.interior, self._shape, normals, head.lip, shown.colour)
        self.colours[~head.interior.everything] = 1
        self.colours[head.parts["face"], 3] = self._face_opacity(seen)
        self._gain = motion_gain(self._own, head.expression_names, self._opening)
        rest = rest_expression(self._own, head.expression_names, self._opening)
        self._resting = self._shape + self._expressed(rest)
        face = np.arange(head.parts["face"].stop)
        self.background = Background(self.points, np.unique(np.concatenate([head.rim[::2], face[::25]])))

    def place(self, weights: Float32, pose: Float32, only: Int | None = None) -> tuple[Float32, Float32]:
        """Vertices of a frame, all or only some: (V, 2) px and (V,) distance from the camera in cm.

        weights: (57,) ICT-FaceKit weights on top of the rest; pose: (6,) yaw, pitch, roll in radians, x, y, z in cm.
        """
        resting = self._resting if only is None else self._resting[only]
        residual = self._residual if only is None else self._residual[only]
        camera = self._camera.moved(pose)
        seen = camera.space(resting + self._expressed(weights * self._gain, only))
        return camera.project(seen) + residual, seen[:, 2]

    def _expressed(self, weights: Float32, only: Int | None = None) -> Float32:
        """(57,) -> (V, 3) cm that an expression adds."""
        basis = self._head.expression if only is None else self._head.expression[:, only]
        return (weights @ basis.reshape(len(weights), -1)).reshape(-1, 3)

    def _opening(self, expression: Float32, above: Sequence[int], below: Sequence[int]) -> float:
        """Mean px between two rows of landmarks in the portrait's own pose."""
        marks = self._head.landmarks
        seen = self._camera.space(self._shape[marks] + self._expressed(expression, marks))
        rows = self._camera.project(seen)[:, 1] + self._residual[marks, 1]
        return float((rows[list(below)] - rows[list(above)]).mean())

    def _place_upper_teeth(self, seen: Float32, edge_px: float | None) -> None:
        """Lifts or lowers upper teeth and gums. seen: (V, 3) camera space; edge_px: where own incisors end."""
        lip, length = self._head.lip, INCISORS_CM
        if edge_px is not None:
            lip_px = self._camera.project(seen[[lip]])[0, 1] + self._residual[lip, 1]
            below_lip = (edge_px + 1 - lip_px) * seen[lip, 2] / self._camera.focal
            raised = float(self._expressed(self._own, np.array([lip]))[0, 1])
            length = float(np.clip(below_lip - raised, *OWN_INCISORS_CM))
        tip = self._shape[self._head.interior.tip, 1]
        self._shape[self._head.interior.upper, 1] += self._shape[lip, 1] - length - tip

    def _keep_off_open_mouth(self, mesh_points: Float32) -> Float32:
        """(V, 2) px: `points`, but parts of the face that fall between the lips move to the nearest pixel of a lip.

        Otherwise a smile's teeth would be printed on the lips.
        """
        opening = teeth.grown(teeth.area(mesh_points, anatomy.INNER_LIPS_OUTLINE), 5) > 0
        row, column = distance_transform_edt(opening, return_distances=False, return_indices=True)
        face = self._head.parts["face"]
        x, y = np.clip(self.points[face].round().astype(np.int64), 0, PORTRAIT_PX - 1).T
        nearest = np.stack([column[y, x], row[y, x]], axis=1)
        placed = self.points.copy()
        placed[face] = np.where(opening[y, x, None], nearest, placed[face])
        return placed

    def _face_opacity(self, seen: Float32) -> Float32:
        """(face,) 0..1: less towards the rim, and on the sides where the camera sees the skin at a grazing angle."""
        head, face = self._head, self._head.parts["face"]
        away = -np.einsum("vi,vi->v", head.face_normals(seen), seen) / np.linalg.norm(seen, axis=1)
        away *= np.sign(np.median(away[slice(*anatomy.NARROW_FACE)]))  # whichever way round the triangles are
        facing = np.clip((away[face] - 0.12) / 0.35, 0, 1)
        facing = facing**2 * (3 - 2 * facing)
        x, y, _ = head.neutral[face].T
        side = (np.abs(x) > 4.2) | (y < -6.5)
        return np.where(side, np.minimum(head.rim_opacity, facing), head.rim_opacity)
