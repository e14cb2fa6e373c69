"""Frozen dataclasses from what JSON gives back for `dataclasses.asdict`: strictly, since files come from anywhere.

Unknown and missing fields, wrong types and absurd sizes raise BadInputError, which names the field. Nothing is guessed.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from emo_live.config import EmoConfig
from emo_live.errors import BadInputError

T = TypeVar("T")

# Nothing published is near these; beyond them, building the model would only fill the memory.
MOST_ITEMS = 64
_MOST = {"layers_per_block": 16, "attention_blocks": 16}
_MOST_OTHERS = 1 << 17
_MOST_FLOAT = 1e9


def config_from_dict(value: object) -> EmoConfig:
    """The inverse of `dataclasses.asdict` for an EmoConfig, also after a way through JSON. Raises BadInputError."""
    config = rebuilt(EmoConfig, value, "config")
    _check_sizes(config, "config")
    return config


def rebuilt(kind: type[T], value: object, where: str) -> T:
    """value: dicts, lists and plain values -> a dataclass of `kind`. where: the name that a complaint begins with."""
    return cast(T, _read(kind, value, where))


def _read(kind: Any, value: object, where: str) -> Any:
    if is_dataclass(kind):
        return _read_fields(cast(type, kind), value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in inner else _read(inner[0], value, where)
    if origin is Literal:
        if value not in inner or type(value) is not str:
            raise BadInputError(f"{where} must be one of {', '.join(map(str, inner))}, not {_shown(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) > MOST_ITEMS:
            raise BadInputError(f"{where} must be a list of at most {MOST_ITEMS}, not {_shown(value)}")
        return tuple(_read(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        items = _mapping(value, where).items()
        return {str(key): _read(inner[1], item, f"{where}[{str(key)[:60]!r}]") for key, item in items}
    if kind is float:
        if type(value) not in (int, float) or not abs(cast(float, value)) < _MOST_FLOAT:
            raise BadInputError(f"{where} must be a number, not {_shown(value)}")
        return float(cast(float, value))
    if type(value) is not kind:
        raise BadInputError(f"{where} must be of type {kind.__name__}, not {_shown(value)}")
    return value


def _read_fields(kind: type, value: object, where: str) -> Any:
    given = _mapping(value, where)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    missing, unknown = [n for n in names if n not in given], sorted(set(map(str, given)) - set(names))
    if missing or unknown:
        problems = [f"lacks {', '.join(missing)}"] if missing else []
        problems += [f"has unknown fields ({', '.join(unknown):.80})"] if unknown else []
        raise BadInputError(f"{where} {' and '.join(problems)}")
    return kind(**{name: _read(hints[name], given[name], f"{where}.{name}") for name in names})


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadInputError(f"{where} must be an object with named fields, not {_shown(value)}")
    return value


def _check_sizes(value: object, where: str) -> None:
    """Counts and sizes are positive and not absurd; only the numbers of frames in EmoConfig may be 0."""
    if is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if type(inner) is int:
                least = 0 if isinstance(value, EmoConfig) or field.name == "context" else 1
                most = _MOST.get(field.name, _MOST_OTHERS)
                if not least <= inner <= most:
                    raise BadInputError(f"{where}.{field.name} must be from {least} to {most}, not {_shown(inner)}")
            _check_sizes(inner, f"{where}.{field.name}")
    elif isinstance(value, tuple):
        if not value or any(type(item) is int and not 1 <= item <= _MOST_OTHERS for item in value):
            raise BadInputError(f"{where} must be a list of sizes from 1 to {_MOST_OTHERS}, not {_shown(value)}")


def _shown(value: object) -> str:
    plain = value is None or isinstance(value, (str, int, float, tuple))
    return repr(str(value)[:40]) if plain else type(value).__name__
