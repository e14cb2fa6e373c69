"""Where this user's machine keeps what can be made or downloaded again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "EMO_LIVE_CACHE"


def cache_folder() -> Path:
    """$EMO_LIVE_CACHE, else emo_live in the user's cache folder. It may not exist yet."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    home = Path(os.path.expanduser("~"))  # Path.home() raises where there is none
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "emo_live"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "emo_live"
