"""Engines by name."""

from __future__ import annotations

from emo_live.engine.live import EngineFactory, PatternHost
from emo_live.engine.published import USUAL, PublishedFactory, PublishedOptions
from emo_live.engine.tiny import TinyHost
from emo_live.errors import BadInputError

_HERE: dict[str, EngineFactory] = {"tiny": TinyHost, "pattern": PatternHost}
ENGINES = (*_HERE, *USUAL)


def factory_of(engine: str | PublishedOptions | EngineFactory, size_px: int = 512) -> EngineFactory:
    """By name, from options, or as it is. size_px: of the pictures that published weights are warmed up for.

    Raises BadInputError for a name that is none, and for weights that are not installed.
    """
    if isinstance(engine, PublishedOptions):
        return PublishedFactory(engine, size_px)
    if not isinstance(engine, str):
        return engine
    check_name(engine)
    return _HERE[engine] if engine in _HERE else PublishedFactory(PublishedOptions(engine), size_px)


def check_name(engine: str) -> None:
    if engine not in ENGINES:
        raise BadInputError(f"there is no engine {engine!r}: use {' or '.join(map(repr, ENGINES))}")
