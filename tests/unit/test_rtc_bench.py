"""The benchmark compares like with like, and its figures are there."""

from __future__ import annotations

from emo_live.transport.rtc_bench import measure
from emo_live.types import FPS, Progress


def test_every_encoder_gets_the_same_pictures() -> None:
    told: list[Progress] = []
    report = measure(seconds=2, size=64, progress=told.append)
    assert [row.encoder for row in report.encoders] == ["emo_live H.264", "emo_live VP8", "aiortc H.264", "aiortc VP8"]
    assert report.pictures == 2 * FPS
    assert all(row.cpu_ms > 0 and row.kbps > 0 and row.largest_packets >= 1 for row in report.encoders)
    assert [row.keyframes for row in report.encoders] == [1, 1, 2, 2], "a bitrate changes once"
    assert (told[-1].done, told[-1].total) == (2, 2)
