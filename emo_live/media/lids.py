"""How lids close: folded over the eye at the picture's own resolution, for an open eye is four pixels of the flow high.

A lid comes down and the eye stays where it is. The lid's rim and lashes move as they are; the skin between them and the
brow is stretched. How far a lid is closed is drawn with the other gestures; where it goes follows from landmarks.
"""

from __future__ import annotations

import numpy as np

from emo_live.types import Float32

# FaceLandmarker points from one corner of an eye to the other: upper edge, lower edge, lower line of the brow. The eye
# at the right of the picture comes first, because its lid is eyeBlinkLeft.
_EYES = (
    (
        (362, 398, 384, 385, 386, 387, 388, 466, 263),
        (362, 382, 381, 380, 374, 373, 390, 249, 263),
        (285, 295, 282, 283, 276),
    ),
    (
        (133, 173, 157, 158, 159, 160, 161, 246, 33),
        (133, 155, 154, 153, 145, 144, 163, 7, 33),
        (55, 65, 52, 53, 46),
    ),
)
# In widths of the eye.
_ABOVE, _BELOW = -0.01, 0.09  # the upper lid takes the line of its lashes along, and lands behind the lower one's
_RIM = 0.12  # of the lid with its lashes
_ENDS = (0.42, 0.66)  # from the eye's middle: where the lid's motion begins to fade, and where there is none
_SKIN = 0.9  # share of the way from lid to brow whose skin is stretched
_LEAST = 0.01  # of closing that is worth the work


class LidFold:
    """The lids of one face on a square crop of size px. points: (478, 2) landmarks in shares of the crop."""

    def __init__(self, points: Float32, size: int) -> None:
        self._eyes = [_Eye(*(points[list(line)] * np.float32(size) - 0.5 for line in lines)) for lines in _EYES]

    def __call__(self, flow: Float32, closed: Float32) -> None:
        """flow: (2, S, S) backward flow x, y in px, changed in place; closed: (2,) left and right lid, 0..1."""
        for eye, share in zip(self._eyes, closed, strict=True):
            if share > _LEAST:
                eye.fold(flow, float(min(share, 1)))


class _Eye:
    """upper, lower, brow: (N, 2) px. Lengths are along the eye's own axes: `across` from left to right, and down."""

    def __init__(self, upper: Float32, lower: Float32, brow: Float32) -> None:
        ends = upper[[0, -1]][np.argsort(upper[[0, -1], 0])]
        self._middle, self._width = ends.mean(0), float(np.linalg.norm(ends[1] - ends[0]))
        across = (ends[1] - ends[0]) / self._width
        self._axes = np.stack([across, [-across[1], across[0]]]).astype(np.float32)
        # A place every half px, from one end of the fold to the other.
        reach = _ENDS[1] * self._width
        self._places = np.arange(-reach, reach, 0.5, dtype=np.float32)
        top, bottom, high = (self._line(line) for line in (upper, lower, brow))
        fade = np.clip((reach - np.abs(self._places)) / ((_ENDS[1] - _ENDS[0]) * self._width), 0, 1)
        opening = (np.maximum(bottom - top, 0) + (_ABOVE + _BELOW) * self._width) * fade
        self._opening, self._top = opening, top - _ABOVE * self._width
        self._start = self._top - np.maximum(_SKIN * (self._top - high), 2 * _RIM * self._width)
        self._box = (float(self._start.min()), float((self._top + opening).max()))

    def _line(self, points: Float32) -> Float32:
        """How low the line lies at each place: smooth, and level beyond the corners of the eye."""
        along, low = self._axes @ (points - self._middle).T
        curve = np.polynomial.Polynomial.fit(along, low, min(4, len(points) - 2))
        return curve(np.clip(self._places, along.min(), along.max())).astype(np.float32)

    def fold(self, flow: Float32, share: float) -> None:
        rows, columns = self._region(flow)
        part = flow[:, rows, columns]
        if not part.size:
            return
        x = part[0] + np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(self._middle[0])
        y = part[1] + np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(self._middle[1])
        (ax, ay), (dx, dy) = self._axes
        place = np.rint((x * ax + y * ay - self._places[0]) * 2).astype(np.intp)
        outside = (place < 0) | (place >= len(self._places))
        place = place.clip(0, len(self._places) - 1)
        low = x * dx + y * dy
        moved = np.float32(share) * self._opening[place]
        start, edge = self._start[place], self._top[place] + moved
        rim = edge - np.float32(_RIM * self._width)
        skin = ((low - start) / (rim - start)).clip(0, 1)
        lift = np.where(outside | (low > edge), 0, moved * skin)
        part[0] -= lift * dx
        part[1] -= lift * dy

    def _region(self, flow: Float32) -> tuple[slice, slice]:
        """Rows and columns of the picture that may show this eye, wherever the head has gone."""
        size = flow.shape[1]
        x, y = np.rint(self._middle).astype(int).clip(0, size - 1)
        at = self._middle - flow[:, y, x]
        corners = np.array([[u, v] for u in self._places[[0, -1]] for v in self._box]) @ self._axes + at
        margin = self._width / 4
        low = np.floor(corners.min(0) - margin).astype(int).clip(0, size)
        high = np.ceil(corners.max(0) + margin).astype(int).clip(0, size)
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
