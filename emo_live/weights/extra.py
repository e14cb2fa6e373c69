"""Packages of the extra `gpu`, without which nothing can be done with published weights."""

from __future__ import annotations

import importlib.util

from emo_live.errors import NotSupportedError

_NEEDED = ("torch", "diffusers", "transformers", "safetensors")


def require_extra(*more: str) -> None:
    """Raise NotSupportedError, with the pip line, unless torch, diffusers, transformers, safetensors and `more` are
    there."""
    missing = [name for name in (*_NEEDED, *more) if importlib.util.find_spec(name) is None]
    if missing:
        raise NotSupportedError(f'published weights need {", ".join(missing)}: pip install "emo-live[gpu]"')
