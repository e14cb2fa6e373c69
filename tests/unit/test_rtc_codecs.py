"""Encoded pairs can be decoded, keep their media time, and follow the network without keyframes nobody asked for."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest

from emo_live.engine.test_pattern import beep, picture, read_index
from emo_live.errors import NotSupportedError
from emo_live.transport import rtc_codecs
from emo_live.transport.rtc_codecs import (
    CodecName,
    H264Encoder,
    OpusEncoder,
    PairEncoder,
    Vp8Encoder,
    working_codecs,
)
from emo_live.types import FPS, OUTPUT_STEP_SAMPLES, UInt8

CODECS: tuple[CodecName, ...] = ("h264", "vp8")
SILENCE = np.zeros(OUTPUT_STEP_SAMPLES, np.int16)


def noise(count: int, size: int = 128) -> list[UInt8]:
    """Pictures that take every bit they can get."""
    random = np.random.default_rng(0)
    still = random.integers(0, 255, (size, size, 3))
    return [np.clip(still + random.normal(0, 40, still.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def decoder(codec: CodecName) -> Any:
    return av.CodecContext.create("h264" if codec == "h264" else "libvpx", "r")


def test_this_build_encodes_both() -> None:
    assert working_codecs() == {"h264", "vp8"}


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_come_back_with_their_index(codec: CodecName) -> None:
    encoder, reading = PairEncoder(codec, (128, 128), 800_000, 1_500_000), decoder(codec)
    for index in range(30):
        encoded = encoder.encode(picture(index, 128), beep(index), index)
        assert encoded.keyframe is (index == 0)
        assert encoded.video.pts == index * 3600
        assert [packet.pts for packet in encoded.audio] == [index * 1920, index * 1920 + 960]
        (frame,) = reading.decode(encoded.video)
        assert read_index(frame.to_ndarray(format="rgb24")) == (None if index % FPS == 0 else index)


@pytest.mark.parametrize("codec", CODECS)
def test_a_keyframe_comes_when_asked_for(codec: CodecName) -> None:
    encoder = PairEncoder(codec, (128, 128), 800_000, 1_500_000)
    keys = [encoder.encode(picture(i, 128), SILENCE, i, keyframe=i in (20, 21)).keyframe for i in range(40)]
    assert [i for i, key in enumerate(keys) if key] == [0, 20, 21]


def test_h264_follows_the_network_without_keyframes() -> None:
    encoder = H264Encoder((128, 128), 300_000, 1_500_000)
    pictures, position = noise(50), 0
    for bitrate in (300_000, 1_200_000, 200_000, 700_000):
        encoder.follow(bitrate)
        packets = []
        for shown in pictures:
            packets.append(encoder.encode(shown, position, keyframe=False))
            position += 1
        settled = packets[FPS:]  # the first second pays for what went before
        assert sum(packet.size for packet in settled) * 8 * FPS / len(settled) == pytest.approx(bitrate, rel=0.25)
        assert sum(packet.is_keyframe for packet in packets) == (bitrate == 300_000)


def test_vp8_is_opened_again_seldom() -> None:
    encoder = Vp8Encoder((128, 128), 800_000, 1_500_000)
    keys = []
    for position, shown in enumerate(noise(10) * 30):
        encoder.follow(800_000 - position * 2_000)
        keys.append(encoder.encode(shown, position, keyframe=False).is_keyframe)
    opened = [i for i, key in enumerate(keys) if key]
    assert opened[0] == 0
    assert 1 <= len(opened) - 1 <= 2
    assert all(b - a >= 4 * FPS for a, b in zip(opened, opened[1:], strict=False))


def test_pictures_of_another_size_are_scaled_without_a_keyframe() -> None:
    encoder, reading = PairEncoder("h264", (128, 128), 800_000, 1_500_000), decoder("h264")
    for index, side in enumerate((128, 64, 64, 256, 128), start=1):
        encoded = encoder.encode(picture(index, side), SILENCE, index)
        assert encoded.keyframe is (index == 1)
        (frame,) = reading.decode(encoded.video)
        assert (frame.width, frame.height) == (128, 128)
        assert read_index(frame.to_ndarray(format="rgb24")) == index


@pytest.mark.parametrize("codec", CODECS)
def test_odd_sizes_lose_a_row(codec: CodecName) -> None:
    encoder, reading = PairEncoder(codec, (101, 77), 800_000, 1_500_000), decoder(codec)
    (frame,) = reading.decode(encoder.encode(np.full((101, 77, 3), 90, np.uint8), SILENCE, 0).video)
    assert (frame.height, frame.width) == (100, 76)


@pytest.mark.parametrize("size", [(8, 512), (1080, 1920)])
def test_sizes_that_no_browser_promises(size: tuple[int, int]) -> None:
    with pytest.raises(NotSupportedError, match="16 px"):
        PairEncoder("h264", size, 800_000, 1_500_000)


def test_a_card_that_opens_no_more_encoders_leaves_it_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for NVENC on machines that have none: the name fails to open as it does on a card that is full."""
    monkeypatch.setattr(rtc_codecs, "has_nvenc", lambda: True)
    assert PairEncoder("h264", (64, 64), 800_000, 1_500_000).video.name in ("libx264", "h264_nvenc")
    assert PairEncoder("h264", (64, 64), 800_000, 1_500_000, hardware=False).video.name == "libx264"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("level", [16, 90, 235])
def test_colours_survive(codec: CodecName, level: int) -> None:
    shown = np.full((64, 64, 3), (level, 128, 255 - level), np.uint8)
    (frame,) = decoder(codec).decode(PairEncoder(codec, (64, 64), 10**6, 10**6).encode(shown, SILENCE, 0).video)
    back = frame.to_ndarray(format="rgb24").mean(axis=(0, 1))
    assert np.abs(back - shown[0, 0]).max() < 8


def test_read_only_and_strided_pictures_are_taken() -> None:
    encoder = PairEncoder("h264", (64, 64), 800_000, 1_500_000)
    shown = picture(1, 64)
    shown.flags.writeable = False
    encoder.encode(shown, SILENCE, 0)
    encoder.encode(shown[:, ::-1], SILENCE, 1)


def test_a_gap_is_silence_in_contiguous_packets() -> None:
    encoder = PairEncoder("h264", (64, 64), 800_000, 1_500_000)
    reading = av.CodecContext.create("libopus", "r")
    packets = [*encoder.encode(picture(0, 64), beep(0), 0).audio]
    packets += encoder.encode(picture(4, 64), beep(0), 4, gap=3).audio
    assert [packet.pts for packet in packets] == list(range(0, 5 * 1920, 960))
    heard = np.concatenate([frame.to_ndarray()[0] for packet in packets for frame in reading.decode(packet)])
    loud = np.abs(heard.reshape(-1, 2 * 960)).max(axis=1) > np.abs(heard).max() / 10  # decoded as packed stereo
    # The decoder is 6.5 ms behind, so a tone ends a packet later.
    assert loud.tolist() == [True, True, True, False, False, False, False, False, True, True]


def test_opus_is_twenty_milliseconds_a_packet() -> None:
    with pytest.raises(AssertionError, match="20 ms"):
        OpusEncoder().encode(np.zeros(1000, np.int16), 0)
