"""VideoFileWriter: sound to the sample, true colours, and nothing left behind when it goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soxr

from emo_live.errors import BadInputError
from emo_live.transport.file import VideoFileWriter
from emo_live.types import Float32, UInt8

GREY = np.full((64, 64, 3), 128, np.uint8)


def voice(rate_hz: int, channels: int = 1, duration_s: float = 0.9) -> Float32:
    """Noise below a third of the bandwidth, different in each channel: survives lossy codecs and has one sharp lag."""
    n_samples = round(rate_hz * duration_s)
    spectrum = np.fft.rfft(np.random.default_rng(5).standard_normal((n_samples, channels)), axis=0)
    spectrum[len(spectrum) // 3 :] = 0
    return (np.fft.irfft(spectrum, n_samples, axis=0) * 0.15).astype(np.float32)


def lag(a: Float32, b: Float32) -> int:
    """How many samples b comes later than a."""
    n = 1 << (len(a) + len(b)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(b, n) * np.conj(np.fft.rfft(a, n)), n)
    best = int(correlation.argmax())
    return best if best < n // 2 else best - n


def write(writer: VideoFileWriter, pcm: Float32, rgb: UInt8 = GREY) -> int:
    """Give pcm in 40 ms pieces of uneven size, each with a picture; return the number of pictures."""
    n_frames = -(-len(pcm) * 25 // writer.rate_hz)
    for i in range(n_frames):
        writer.write_video(rgb)
        start, stop = (round(k * writer.rate_hz / 25) for k in (i, i + 1))
        writer.write_audio(pcm[start:stop])
    return n_frames


def decode_sound(path: Path) -> tuple[int, Float32, int]:
    """(rate, (S, C) samples, time of the first one in samples), by PyAV alone."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    pcm = np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T
    first = frames[0]
    assert first.pts is not None and first.time_base is not None
    return first.sample_rate, pcm, round(first.pts * first.time_base * first.sample_rate)


def decode_pictures(path: Path) -> list[UInt8]:
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray() for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "rate_hz", "stored_hz"),
    [(".mp4", rate_hz, rate_hz) for rate_hz in (8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000)]
    + [(".mp4", 11_127, 12_000), (".mp4", 192_000, 48_000)]
    + [(".webm", rate_hz, 48_000) for rate_hz in (8_000, 16_000, 22_050, 44_100, 48_000)],
)
def test_sound_is_aligned_to_the_sample(
    tmp_path: Path, suffix: str, rate_hz: int, stored_hz: int, channels: int
) -> None:
    pcm = voice(rate_hz, channels)
    path = tmp_path / f"a{suffix}"
    with VideoFileWriter(path, width=64, height=64, rate_hz=rate_hz, channels=channels) as writer:
        n_frames = write(writer, pcm)
    got_hz, got, first = decode_sound(path)
    expected = pcm if stored_hz == rate_hz else soxr.resample(pcm, rate_hz, stored_hz)
    assert (got_hz, got.shape[1], first) == (stored_hz, channels, 0)
    for channel in range(channels):
        assert lag(expected[:, channel], got[:, channel]) == 0
    assert 0 <= len(got) - len(expected) <= 1024
    with av.open(str(path)) as container:
        starts = [stream.start_time * stream.time_base for stream in container.streams if stream.start_time]
        assert all(abs(start) <= 0.001 for start in starts)
    assert len(decode_pictures(path)) == n_frames


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 51)])
def test_pictures_keep_their_colours_and_order(tmp_path: Path, suffix: str, width: int, height: int) -> None:
    path = tmp_path / f"a{suffix}"
    colours = [(200, 40, 40), (40, 180, 60), (50, 60, 210), (128, 128, 128), (250, 250, 250), (5, 5, 5)]
    with VideoFileWriter(path, width=width, height=height, rate_hz=16_000, channels=1) as writer:
        for colour in colours:
            writer.write_video(np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)))
            writer.write_audio(np.zeros((640, 1), np.float32))
    pictures = decode_pictures(path)
    assert len(pictures) == len(colours)
    for picture, colour in zip(pictures, colours, strict=True):
        assert picture.shape == (height + height % 2, width + width % 2, 3)
        assert np.abs(picture.astype(float).mean((0, 1)) - colour).max() < 4
        assert np.abs(picture[-1].astype(float) - colour).max() < 12  # the padding repeats the edge
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
        assert tuple(map(int, tags)) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"
        assert container.streams.video[0].average_rate == 25


def test_a_detailed_picture_survives(tmp_path: Path) -> None:
    y, x = np.mgrid[0:96, 0:96]
    rgb = np.stack([128 + 90 * np.sin(x / 7), 128 + 90 * np.cos(y / 9), 128 + 60 * np.sin((x + y) / 11)], -1)
    picture = rgb.astype(np.uint8)
    for suffix in (".mp4", ".webm"):
        path = tmp_path / f"a{suffix}"
        with VideoFileWriter(path, width=96, height=96, rate_hz=16_000, channels=1) as writer:
            for _ in range(10):
                writer.write_video(picture)
                writer.write_audio(np.zeros((640, 1), np.float32))
        error = decode_pictures(path)[-1].astype(float) - picture
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 34


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_codecs_metadata_and_mode(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    note = "Synthetic media: this person never said this."
    with VideoFileWriter(
        path, width=64, height=64, rate_hz=16_000, channels=1, metadata={"comment": note, "title": "déjà"}
    ) as writer:
        write(writer, voice(16_000))
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        codecs = {stream.codec_context.name for stream in container.streams}
    assert tags["comment"] == note and tags["title"] == "déjà"
    assert codecs & {"h264", "vp9", "libvpx-vp9"} and codecs & {"aac", "opus", "libopus"}
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    if suffix == ".mp4":
        data = path.read_bytes()
        assert 0 < data.find(b"moov") < data.find(b"mdat")  # faststart: plays while it loads


def test_sound_and_pictures_are_interleaved(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoFileWriter(path, width=64, height=64, rate_hz=16_000, channels=1) as writer:
        write(writer, voice(16_000, duration_s=4.0))
    with av.open(str(path)) as container:
        kinds = [(packet.pos, packet.stream.type) for packet in container.demux() if packet.pos is not None]
    order = [kind for _, kind in sorted(kinds)]
    switches = sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert switches > 30


def test_nothing_under_the_name_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    writer = VideoFileWriter(path, width=64, height=64, rate_hz=16_000, channels=1)
    write(writer, voice(16_000))
    (temporary,) = tmp_path.iterdir()
    assert temporary.name.startswith(".") and not path.exists()
    writer.close()
    assert list(tmp_path.iterdir()) == [path]
    writer.close()
    writer.abort()
    assert path.exists()
    with pytest.raises(BadInputError, match="closed"):
        writer.write_video(GREY)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_abort_and_exceptions_leave_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    writer = VideoFileWriter(path, width=64, height=64, rate_hz=22_050, channels=2)
    write(writer, voice(22_050, 2))
    writer.abort()
    writer.abort()
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(KeyboardInterrupt),
        VideoFileWriter(path, width=64, height=64, rate_hz=16_000, channels=1) as writer,
    ):
        writer.write_video(GREY)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_without_a_single_picture_or_sample(tmp_path: Path) -> None:
    with VideoFileWriter(tmp_path / "a.mp4", width=64, height=64, rate_hz=16_000, channels=1) as writer:
        writer.write_audio(np.zeros((0, 1), np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def refuse(path: Path, says: str, **options: object) -> None:
    arguments = {"width": 64, "height": 64, "rate_hz": 16_000, "channels": 1, **options}
    with pytest.raises(BadInputError) as caught:
        VideoFileWriter(path, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert says in message and ": " in message and "\n" not in message


def test_bad_outputs_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    before = sorted(tmp_path.iterdir())
    refuse(tmp_path / "a.avi", ".mp4 nor .webm")
    refuse(tmp_path / "a", ".mp4 nor .webm")
    refuse(tmp_path / "nowhere" / "a.mp4", "there is no folder")
    refuse(tmp_path / "there.mp4" / "a.mp4", "there is no folder")
    refuse(tmp_path / "there.mp4", "exists already")
    refuse(tmp_path / "folder.mp4", "is a folder", overwrite=True)
    refuse(tmp_path / "pipe.mp4", "not an ordinary file", overwrite=True)
    refuse(tmp_path / ("x" * 300 + ".mp4"), "cannot be written")
    refuse(tmp_path / "a.mp4", "16 to 8192", width=8)
    refuse(tmp_path / "a.mp4", "channels", channels=6)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_a_read_only_folder_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", deny)  # root may write anywhere, so the system's answer is played
    refuse(tmp_path / "a.mp4", "permission denied")


def test_overwriting_happens_in_one_step_and_keeps_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.mp4", tmp_path / "link.mp4"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with VideoFileWriter(link, width=64, height=64, rate_hz=16_000, channels=1, overwrite=True) as writer:
        write(writer, voice(16_000))
        assert real.read_bytes() == b"old"
    assert link.is_symlink() and real.stat().st_size > 1_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.mp4", "real.mp4"]


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with (
        pytest.raises(BadInputError, match="appeared"),
        VideoFileWriter(path, width=64, height=64, rate_hz=16_000, channels=1) as writer,
    ):
        write(writer, voice(16_000))
        path.write_bytes(b"precious")
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    with VideoFileWriter(tmp_path / "a.mp4", width=64, height=48, rate_hz=16_000, channels=1) as writer:
        with pytest.raises(BadInputError, match=r"\(48, 64, 3\)"):
            writer.write_video(GREY)
        with pytest.raises(BadInputError, match="float32"):
            writer.write_audio(np.zeros((10, 2), np.float32))


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_far_beyond_full_scale_is_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with VideoFileWriter(path, width=64, height=64, rate_hz=48_000, channels=1) as writer:
        write(writer, np.full((24_000, 1), 1e30, np.float32) * np.sign(voice(48_000)[:24_000]))
    _, got, _ = decode_sound(path)
    assert np.isfinite(got).all() and 0.5 < np.abs(got).max() < 5


def test_an_error_of_the_muxer_says_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoFileWriter(tmp_path / "a.mp4", width=64, height=64, rate_hz=16_000, channels=1)

    class FullDisk:
        def mux(self, packets: object) -> None:
            raise av.error.OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            container.close()

    container = writer._container
    monkeypatch.setattr(writer, "_container", FullDisk())
    with pytest.raises(BadInputError, match="disk full"):
        write(writer, voice(16_000))
    assert not list(tmp_path.iterdir())


_LIMITED = """
import resource, sys
import numpy as np
from emo_live.errors import BadInputError
from emo_live.transport.file import VideoFileWriter

limit = int(sys.argv[2])
rng = np.random.default_rng(0)
try:
    with VideoFileWriter(sys.argv[1], width=128, height=128, rate_hz=16_000, channels=1) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for _ in range(50):
            writer.write_video(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
            writer.write_audio(rng.standard_normal((640, 1), dtype=np.float32))
        print("all given")
except BadInputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("limit", [40_000, 0])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, suffix: str, limit: int) -> None:
    path = tmp_path / f"a{suffix}"
    command = [sys.executable, "-c", _LIMITED, str(path), str(limit)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "disk full" in ran.stdout and "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
