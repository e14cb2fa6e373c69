"""Triangle meshes: neighbours, pieces, borders, normals. Knows nothing of faces; (V, 3) vertices, (F, 3) triangles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components

from emo_live.types import Float32

Int = NDArray[np.int64]


def _edges(triangles: Int) -> Int:
    """(3F, 2) directed edges."""
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])


def border(triangles: Int) -> Int:
    """Sorted vertices of the edges that only one triangle has."""
    edges, count = np.unique(np.sort(_edges(triangles), axis=1), axis=0, return_counts=True)
    return np.unique(edges[count == 1])


def pieces(triangles: Int, vertices: int) -> Int:
    """(V,) number of the connected piece that a vertex belongs to."""
    start, end = _edges(triangles).T
    links = coo_array((np.ones(len(start), np.float32), (start, end)), (vertices, vertices))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def averaging(triangles: Int, vertices: int) -> Any:
    """(V, V) sparse matrix that replaces a vertex's value by the mean of itself and its neighbours."""
    start, end = _edges(np.concatenate([triangles, triangles[:, ::-1]])).T
    links = coo_array((np.ones(len(start), np.float32), (start, end)), (vertices, vertices)).tocsr()
    near = ((links + eye_array(vertices, dtype=np.float32)) > 0).astype(np.float32)
    return (diags_array(1 / near.sum(1)) @ near).tocsr().astype(np.float32)


class Normals:
    """Area-weighted vertex normals of one set of triangles, for any positions of its vertices."""

    def __init__(self, triangles: Int, vertices: int):
        self._triangles = triangles
        corner = triangles.ravel()
        ones = np.ones(len(corner), np.float32)
        self._gather = csr_array((ones, (corner, np.arange(len(corner)) // 3)), (vertices, len(triangles)))

    def __call__(self, positions: Float32) -> Float32:
        """(V, 3) -> (V, 3) of length 1; zero where a vertex has no triangle."""
        a, b, c = (positions[self._triangles[:, i]] for i in range(3))
        total = self._gather @ np.cross(b - a, c - a)
        return np.asarray(total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-9), np.float32)
