"""Which faces can be animated: one, large enough, whole, looking at the camera. Each refusal has its own advice."""

from __future__ import annotations

from emo_live.errors import BadInputError
from emo_live.face.landmarker import IMPORTANT_SHARE, Face
from emo_live.types import Box

MIN_FACE_PX = 64
MAX_YAW = 35.0
MAX_MISSING_SHARE = 0.3
_AROUND = 0.25
_MAX_POINTS_OUTSIDE = 0.04


def choose_face(faces: list[Face], width: int, height: int, *, largest_face: bool = False) -> Face:
    """Return the face to animate of a picture of width x height px, or raise BadInputError.

    Faces under a quarter of the tallest one's height (a poster, a passer-by) never count. largest_face: take the
    tallest face instead of refusing several.
    """
    if not faces:
        raise BadInputError("no face found: use a picture that shows one face upright, close, from the front, well lit")
    ranked = sorted(faces, key=lambda face: -face.box.height)
    main = ranked[0]
    rivals = [face for face in ranked if face.box.height >= IMPORTANT_SHARE * main.box.height]
    if len(rivals) > 1 and not largest_face:
        raise BadInputError(
            f"{len(rivals)} faces found: crop the picture to one person, or ask for the largest face (--largest-face)"
        )
    if main.box.height < MIN_FACE_PX:
        raise BadInputError(
            f"the face is only {main.box.height:.0f} px high: use a closer or larger picture, "
            f"{MIN_FACE_PX} px is the least and 250 px is good"
        )
    _check_whole(main, width, height)
    if abs(main.yaw) > MAX_YAW:
        raise BadInputError(
            f"the face is turned {abs(main.yaw):.0f} degrees to the side: use a picture that looks towards the camera"
        )
    return main


def missing_share(box: Box, width: int, height: int) -> float:
    """Share of a face's surroundings (its box grown by a quarter of its height on each side) outside the picture."""
    grow = _AROUND * box.height
    seen_w = min(box.right + grow, width) - max(box.left - grow, 0.0)
    seen_h = min(box.bottom + grow, height) - max(box.top - grow, 0.0)
    whole = (box.width + 2 * grow) * (box.height + 2 * grow)
    return 1 - max(seen_w, 0.0) * max(seen_h, 0.0) / whole


def _check_whole(face: Face, width: int, height: int) -> None:
    slack = 0.01 * face.box.height
    x, y = face.points[:, 0], face.points[:, 1]
    outside = (x < -slack) | (y < -slack) | (x > width + slack) | (y > height + slack)
    if float(outside.mean()) > _MAX_POINTS_OUTSIDE or missing_share(face.box, width, height) > MAX_MISSING_SHARE:
        raise BadInputError(
            "the face is cut off by the border of the picture: use one with the whole head and some space around it"
        )
