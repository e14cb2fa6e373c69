"""ICT-FaceKit reduced to what is drawn: face, inside of the mouth, eyeballs. The same for all portraits.

Vertices are renumbered, the parts one after the other. Knows nothing of portraits. Head space, cm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from emo_live.training.puppets import anatomy, mesh, mouth
from emo_live.training.puppets.mesh import Int
from emo_live.types import Float32

EYE_SETBACK_CM = 0.8  # eyeballs are drawn farther away by this, or fitted lids would cut into them
CAVITY_SETBACK_CM = 1.0  # the cavity likewise, or the lips' lining would cut through the teeth
RIM_CM = 2.2  # the face grows opaque over this distance from its rim

_PARTS = {
    "face": anatomy.FACE,
    "cavity": anatomy.CAVITY,
    "gums": anatomy.GUMS,
    "teeth": anatomy.TEETH,
    "eyeballs": anatomy.EYEBALLS,
}


@dataclass(frozen=True, slots=True)
class Head:
    """V vertices, of which the first belong to the face.

    neutral (V, 3); identity (100, V, 3); expression (57, V, 3), named by expression_names; parts: slices of the
    vertices; number (26719,): a vertex of ICT-FaceKit here, or -1; skin, inside: (F, 3) triangles of face and eyeballs,
    and of the mouth; landmarks (68,) and lip: vertices; rim: vertices of the face's outer border; rim_opacity (face,)
    0..1, falling towards it; setback (V,) cm; smoothing (V, V) averages along the face; face_normals, inside_normals:
    normals of these parts.
    """

    neutral: Float32
    identity: Float32
    expression: Float32
    expression_names: tuple[str, ...]
    parts: dict[str, slice]
    number: Int
    skin: Int
    inside: Int
    interior: mouth.Interior
    landmarks: Int
    lip: int
    rim: Int
    rim_opacity: Float32
    setback: Float32
    smoothing: Any
    face_normals: mesh.Normals
    inside_normals: mesh.Normals


def load_head(path: Path) -> Head:
    """Reads the pack's ict.npz."""
    with np.load(path) as data:
        names = tuple(str(name) for name in data["en"])
        parts, kept, number = _renumber(len(data["n"]))
        neutral = data["n"][kept].astype(np.float32)
        identity = np.ascontiguousarray(data["I"][:, kept], np.float32)
        expression = np.ascontiguousarray(data["E"][:, kept], np.float32)
        triangles = number[data["F"]]
    count = len(neutral)
    face = _within(triangles, parts["face"])
    inside = _within(triangles, slice(parts["cavity"].start, parts["teeth"].stop))
    jaw_open = expression[names.index("jawOpen")]
    neutral, interior = mouth.settle(neutral, jaw_open, parts, mesh.pieces(inside, count))
    rim, rim_opacity = _rim(neutral, face, parts["face"])
    setback = np.zeros(count, np.float32)
    setback[parts["eyeballs"]], setback[parts["cavity"]] = EYE_SETBACK_CM, CAVITY_SETBACK_CM
    return Head(
        neutral=neutral,
        identity=identity,
        expression=expression,
        expression_names=names,
        parts=parts,
        number=number,
        skin=np.concatenate([_within(triangles, parts["eyeballs"]), face]),  # faces are drawn over eyeballs
        inside=inside,
        interior=interior,
        landmarks=number[list(anatomy.LANDMARKS)],
        lip=int(number[anatomy.UPPER_LIP]),
        rim=rim,
        rim_opacity=rim_opacity,
        setback=setback,
        smoothing=mesh.averaging(face, count),
        face_normals=mesh.Normals(face, count),
        inside_normals=mesh.Normals(inside, count),
    )


def arkit_matrix(arkit_names: tuple[str, ...], expression_names: tuple[str, ...]) -> Float32:
    """(52, 57): ARKit weights @ matrix = ICT-FaceKit weights.

    ICT-FaceKit names sides _L and _R; what ARKit has only for the whole face goes to both sides.
    """
    matrix = np.zeros((len(arkit_names), len(expression_names)), np.float32)
    for row, name in enumerate(arkit_names):
        renamed = name
        for side in ("Left", "Right"):
            if name.endswith(side) and name not in expression_names:
                renamed = f"{name.removesuffix(side)}_{side[0]}"
        wanted = {renamed} if renamed in expression_names else {f"{name}_L", f"{name}_R"}
        matrix[row] = [column in wanted for column in expression_names]
    return matrix


def _renumber(total: int) -> tuple[dict[str, slice], Int, Int]:
    """Slices of the parts in the new numbering, (V,) old numbers of the new, (total,) new numbers of the old or -1."""
    parts, old, start = {}, [], 0
    for name, (first, end) in _PARTS.items():
        parts[name] = slice(start, start + end - first)
        old.append(np.arange(first, end))
        start += end - first
    kept = np.concatenate(old)
    number = np.full(total, -1)
    number[kept] = np.arange(len(kept))
    return parts, kept, number


def _within(triangles: Int, part: slice) -> Int:
    """The triangles that lie wholly in a part."""
    inside: NDArray[np.bool_] = ((triangles >= part.start) & (triangles < part.stop)).all(1)
    return triangles[inside]


def _rim(neutral: Float32, face: Int, part: slice) -> tuple[Int, Float32]:
    """Outer border of the face (eyes and mouth are inner ones), and (face,) the opacity that falls towards it."""
    edge = mesh.border(face)
    x, y, _ = neutral[edge].T
    rim = edge[(np.abs(x) > 5) | (y > 6) | (y < -7)]
    distance_cm, _ = cKDTree(neutral[rim]).query(neutral[part])
    return rim, np.clip(distance_cm / RIM_CM, 0, 1).astype(np.float32)
