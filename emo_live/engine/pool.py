"""One engine shared by sessions. In the caller's process for now; the process behind shared memory replaces it."""

from __future__ import annotations

from emo_live.engine.live import EngineFactory
from emo_live.engine.local import LocalPool


class EnginePool(LocalPool):
    def __init__(
        self, engine: str | EngineFactory = "tiny", *, threads: int | None = None, max_sessions: int | None = None
    ) -> None:
        super().__init__(engine, max_sessions=max_sessions or 8)
