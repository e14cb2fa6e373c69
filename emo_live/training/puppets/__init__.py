"""Photo puppets: the pack's portraits, drawn with any motion, with exact labels. Needs the extra `train` and EGL."""

from __future__ import annotations

from emo_live.training.puppets.theatre import PuppetTheatre
from emo_live.training.puppets.view import View

__all__ = ["PuppetTheatre", "View"]
