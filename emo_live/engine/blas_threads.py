"""Keeps numpy's matrix products on the thread that asks for them, while a backend is open.

OpenBLAS wakes a thread for every core and lets them spin for tens of milliseconds after each product: on two cores
they take half of what the model needs. The setting is the process's: the first backend sets it, the last restores it.
"""

from __future__ import annotations

import threading
from typing import Any


class OneBlasThread:
    """Counts who needs it. `enter` and `leave` may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limits: Any = None

    def enter(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            if self._users == 0:
                self._limits = threadpool_limits(limits=1, user_api="blas")
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limits.restore_original_limits()


ONE_BLAS_THREAD = OneBlasThread()
