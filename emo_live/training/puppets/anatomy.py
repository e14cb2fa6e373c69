"""Which number means what: vertices of ICT-FaceKit, points of MediaPipe's face mesh, iBUG landmarks. Tables only."""

from __future__ import annotations

from typing import Final

# Vertices of ICT-FaceKit, first and one past the last.
FACE: Final = (0, 9409)
NARROW_FACE: Final = (0, 6706)  # without ears, neck and the back of the head
CAVITY: Final = (11248, 13294)
GUMS: Final = (14062, 17039)  # and the tongue
TEETH: Final = (17039, 21451)
EYEBALLS: Final = (21451, 24591)

UPPER_LIP: Final = 5533  # the middle of its inner edge

# The landmarks as vertices of ICT-FaceKit.
_JAW = (1278, 1272, 12, 1834, 243, 781, 2199, 1447, 966, 3661, 4390, 3022, 2484, 4036, 2253, 3490, 3496)
_BROWS = (268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509)
_NOSE = (978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360)
_EYES = (1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732)
_OUTER_LIPS = (5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841)
_INNER_LIPS = (5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966)
LANDMARKS: Final = _JAW + _BROWS + _NOSE + _EYES + _OUTER_LIPS + _INNER_LIPS

# Among the landmarks: edges that face each other, pair by pair.
LIPS_ABOVE: Final = (61, 62, 63)
LIPS_BELOW: Final = (67, 66, 65)
LIDS_ABOVE: Final = (37, 38, 43, 44)
LIDS_BELOW: Final = (41, 40, 47, 46)
MOUTH_CORNERS: Final = (60, 64)

# Boxes round landmarks: which, and a margin as a share of the longer side.
BOXES: Final = {
    "mouth": (tuple(range(48, 68)), 0.35),
    "eyes": (tuple(range(17, 27)) + tuple(range(36, 48)), 0.10),
    "face": (tuple(range(68)), 0.06),
}

# Closed outlines among the 478 points of the face mesh.
INNER_LIPS_OUTLINE: Final = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
EYE_OUTLINES: Final = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
INNER_LIP_TOP: Final = 13
INNER_LIP_BOTTOM: Final = 14
