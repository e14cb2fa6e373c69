"""Compares the names and shapes in a file with those that a network needs, and says in one line what differs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from emo_live.errors import BadInputError
from emo_live.weights.recognise import Shapes, looks_like
from emo_live.weights.tensor_file import Lazy

_SHOWN = 3


def shapes_of(tensors: Mapping[str, Lazy]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def check_keys(file: str, what: str, expected: Shapes, found: Shapes, *, seen: Shapes | None = None) -> None:
    """Raise BadInputError unless found is expected, exactly. seen: names as the file has them, for recognising it."""
    missing, unexpected = _without(expected, found), _without(found, expected)
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    if not (missing or unexpected or wrong):
        return
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} tensors are missing ({_some(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} do not belong to it ({_some(unexpected)})")
    if wrong:
        first = wrong[0]
        shapes = f"{first} has {_shape(found[first])}, not {_shape(expected[first])}"
        problems.append(f"{len(wrong)} have another shape ({shapes})")
    kind = looks_like(found if seen is None else seen)
    seems = f"; the file seems to be {kind}" if kind else ""
    raise BadInputError(f"'{file}' does not hold {what}: {'; '.join(problems)}{seems}")


def _without(names: Collection[str], others: Collection[str]) -> list[str]:
    return [name for name in names if name not in others]


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(name[:100] for name in names[:_SHOWN]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no size"
