"""How often somebody may ask: one window a kind of request and caller, in memory or in a store that servers share."""

from __future__ import annotations

import time
from typing import Literal

from limits import RateLimitItem, parse
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string

from emo_live.errors import BadInputError
from emo_live_server.problems import Problem
from emo_live_server.settings import Settings

Kind = Literal["create", "upload", "speech", "control", "failed"]
_FAILED_LOGINS = "30/minute"


class RateLimits:
    """Raises BadInputError if there is no such store."""

    def __init__(self, settings: Settings) -> None:
        try:
            self._limiter = FixedWindowRateLimiter(storage_from_string(settings.rate_storage))
        except (ConfigurationError, AssertionError) as error:
            raise BadInputError(f"rate_storage cannot be used: {error}") from None
        self._items: dict[Kind, RateLimitItem] = {
            "create": parse(settings.rate_create),
            "upload": parse(settings.rate_upload),
            "speech": parse(settings.rate_speech),
            "control": parse(settings.rate_control),
            "failed": parse(_FAILED_LOGINS),
        }

    async def spend(self, kind: Kind, who: str) -> None:
        """Count one request. Raises Problem 429 with Retry-After when that was one too many."""
        item = self._items[kind]
        if not await self._limiter.hit(item, kind, who):
            window = await self._limiter.get_window_stats(item, kind, who)
            raise Problem.retry(
                429, f"too many requests of this kind: at most {item}", reason="rate_limited",
                after_s=window.reset_time - time.time() + 0.5,
            )  # fmt: skip

    async def check_failures(self, who: str) -> None:
        """Raises Problem 429 if somebody failed to show a valid key too often."""
        if not await self._limiter.test(self._items["failed"], "failed", who):
            raise Problem.retry(429, "too many invalid keys", reason="rate_limited", after_s=60)
