"""The portrait and the spoken greeting that come with the package."""

from __future__ import annotations

from pathlib import Path

from emo_live.errors import NotSupportedError

_ASSETS = Path(__file__).parent / "assets"


def portrait() -> Path:
    """A made portrait of 512 px: nobody real."""
    return _bundled("portraits/*.jpg")


def greeting() -> Path:
    """Some seconds of synthetic English speech."""
    return _bundled("speech/greeting.*")


def _bundled(pattern: str) -> Path:
    found = sorted(_ASSETS.glob(pattern))
    if not found:
        raise NotSupportedError(f"this installation has no {pattern} in {_ASSETS}: install emo-live again")
    return found[0]
