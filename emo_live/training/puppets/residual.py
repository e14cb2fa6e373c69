"""What a fit misses: shifts of all vertices that bring lids, lips and outline onto the portrait's own. px."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from emo_live.training.puppets.head import Head
from emo_live.training.puppets.mesh import Int
from emo_live.types import Float32

REACH_PX = 40.0  # shifts fade over this distance from the face mesh points
SPLINE_SMOOTHING = 3.0
NEIGHBOURS = 40  # the spline is local: one misplaced point does not bend the whole face
AVERAGINGS = 6  # fewer leave opened lips with bumpy edges
LARGEST_PX = 12.0


def spread_residual(head: Head, projected: Float32, points: Float32, matches: tuple[Int, Int]) -> Float32:
    """(V, 2) px to add to the projected vertices (V, 2) px.

    points: (478, 3) px face mesh points of the portrait; matches: face mesh points (K,) and the vertices of the whole
    ICT-FaceKit (K,) that they lie on.
    """
    mesh_points, vertices = matches[0], head.number[matches[1]]
    vertices, first = np.unique(vertices[vertices >= 0], return_index=True)
    anchors = projected[vertices]
    missed = points[mesh_points[head.number[matches[1]] >= 0][first], :2] - anchors
    spline = RBFInterpolator(
        anchors, missed, kernel="thin_plate_spline", smoothing=SPLINE_SMOOTHING, neighbors=NEIGHBOURS
    )
    shift = np.zeros((len(projected), 2), np.float32)
    outside = ~head.interior.everything
    distance_px, _ = cKDTree(anchors).query(projected[outside])
    near = distance_px < 3.5 * REACH_PX  # beyond, less than 1e-5 of a shift is left
    fade = np.exp(-((distance_px[near] / REACH_PX) ** 2))
    shift[np.flatnonzero(outside)[near]] = spline(projected[outside][near]) * fade[:, None]
    for _ in range(AVERAGINGS):
        shift = head.smoothing @ shift
    shift[head.interior.everything] = shift[head.lip]  # in one piece, or teeth would bend
    return np.clip(shift, -LARGEST_PX, LARGEST_PX).astype(np.float32)
