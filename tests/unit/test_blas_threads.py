"""numpy's own threads rest while a backend is open, and come back with the last one."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from emo_live.engine.blas_threads import OneBlasThread


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_last_one_restores_whatever_the_order() -> None:
    np.ones((8, 8)) @ np.ones((8, 8))
    one = OneBlasThread()
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        if before != {2}:
            pytest.skip("this numpy's BLAS cannot be told how many threads to use")
        one.enter()
        one.enter()
        assert threads() == {1}
        one.leave()
        assert threads() == {1}
        one.leave()
        assert threads() == before
        one.enter()
        assert threads() == {1}
        one.leave()
        assert threads() == before
