"""The bitrate goes down with loss and with what the receiver estimates, and comes back slowly."""

from __future__ import annotations

from emo_live.transport.rtc_rate import MIN_BPS, START_BPS, RateControl


def test_starts_low_enough_for_most_and_grows_where_nothing_is_lost() -> None:
    rate = RateControl(1_500_000)
    assert rate.target_bps == START_BPS
    for _ in range(20):
        rate.receiver_lost(0.0)
    assert rate.target_bps == 1_500_000


def test_never_starts_above_what_is_allowed() -> None:
    assert RateControl(300_000).target_bps == 300_000
    assert RateControl(10).target_bps == MIN_BPS


def test_follows_the_receiver_down_and_up_at_once() -> None:
    rate = RateControl(1_500_000)
    rate.receiver_estimates(400_000)
    assert rate.target_bps == 400_000
    rate.receiver_estimates(10_000_000)
    assert rate.target_bps == START_BPS


def test_much_loss_halves_at_most_and_some_is_lived_with() -> None:
    rate = RateControl(1_500_000)
    rate.receiver_lost(0.05)
    assert rate.target_bps == START_BPS
    rate.receiver_lost(1.0)
    assert rate.target_bps == START_BPS // 2
    for _ in range(50):
        rate.receiver_lost(0.9)
    assert rate.target_bps == MIN_BPS
