"""How many bits of video the network carries: the receiver's estimate (REMB) and the loss that it reports.

The rule for loss is the loss-based controller of draft-ietf-rmcat-gcc-02, section 6. Pure; times play no role: it is
told of loss about once a second.
"""

from __future__ import annotations

MIN_BPS = 150_000
START_BPS = 800_000
_MUCH_LOSS, _LITTLE_LOSS, _GROWTH = 0.10, 0.02, 1.08


class RateControl:
    """target_bps: what the encoder should make now, between MIN_BPS and max_bps."""

    def __init__(self, max_bps: int) -> None:
        self._max_bps = max(max_bps, MIN_BPS)
        self._by_loss = float(min(START_BPS, self._max_bps))
        self._by_receiver = float(self._max_bps)

    @property
    def target_bps(self) -> int:
        return round(max(MIN_BPS, min(self._by_loss, self._by_receiver)))

    def receiver_estimates(self, bps: int) -> None:
        self._by_receiver = float(min(bps, self._max_bps))

    def receiver_lost(self, share: float) -> None:
        """share: of the packets since the last report, 0 to 1."""
        if share > _MUCH_LOSS:
            self._by_loss = max(MIN_BPS, self._by_loss * (1 - 0.5 * share))
        elif share < _LITTLE_LOSS:
            self._by_loss = min(self._max_bps, self._by_loss * _GROWTH)
