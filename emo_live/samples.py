"""The portraits and the spoken greeting that come with the package."""

from __future__ import annotations

from pathlib import Path

from emo_live.errors import NotSupportedError

_ASSETS = Path(__file__).parent / "assets"


def portrait() -> Path:
    """A made portrait of 512 px: nobody real."""
    return portraits()[0]


def portraits() -> list[Path]:
    """All made portraits, `portrait` first."""
    return _bundled("portraits/*.jpg")


def greeting() -> Path:
    """Some seconds of synthetic English speech."""
    return _bundled("speech/greeting.*")[0]


def _bundled(pattern: str) -> list[Path]:
    found = sorted(_ASSETS.glob(pattern))
    if not found:
        raise NotSupportedError(f"this installation has no {pattern} in {_ASSETS}: install emo-live again")
    return found
