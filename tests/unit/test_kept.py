"""Values that are kept while they are asked for."""

from __future__ import annotations

import pytest

from emo_live.engine.kept import Kept


def test_the_one_not_asked_for_the_longest_goes_first() -> None:
    kept, made = Kept[str, str](2), list[str]()

    def get(key: str) -> str:
        return kept.get(key, lambda: made.append(key) or key.upper())  # type: ignore[func-returns-value]

    assert [get(key) for key in "ababcaba"] == list("ABABCABA")
    assert made == ["a", "b", "c", "a", "b"], "c came when b was the last, a came back when b was"


def test_what_cannot_be_made_is_not_kept() -> None:
    kept = Kept[str, int](1)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert kept.get("a", lambda: 2) == 2
