"""AudioFile: every kind of sound comes out as the samples that went in, and unusable files are refused in one line."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from emo_live.audio.source import AudioFile, to_mono
from emo_live.errors import BadInputError
from emo_live.types import Float32


def voice(rate_hz: int, channels: int = 1, duration_s: float = 1.0) -> Float32:
    """Noise below a third of the bandwidth, different in each channel: survives lossy codecs and has one sharp lag."""
    n_samples = round(rate_hz * duration_s)
    spectrum = np.fft.rfft(np.random.default_rng(7).standard_normal((n_samples, channels)), axis=0)
    spectrum[len(spectrum) // 3 :] = 0
    return (np.fft.irfft(spectrum, n_samples, axis=0) * 0.15).astype(np.float32)


def lag(a: Float32, b: Float32) -> int:
    """How many samples b comes later than a."""
    n = 1 << (len(a) + len(b)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(b, n) * np.conj(np.fft.rfft(a, n)), n)
    best = int(correlation.argmax())
    return best if best < n // 2 else best - n


def encode(
    path: Path,
    codec: str,
    sample_format: str,
    rate_hz: int,
    pieces: Sequence[tuple[int, Float32]],
    picture_from: int | None = None,
    layout: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write pieces of sound, each at its sample position; with a one-second picture from 40 ms step picture_from on."""
    with av.open(str(path), "w", options=options or {}) as container:
        video = None
        if picture_from is not None:
            video = container.add_stream("mpeg4", rate=25)
            video.width = video.height = 32
        audio = container.add_stream(codec, rate=rate_hz)
        audio.layout = layout or ("mono" if pieces[0][1].shape[1] == 1 else "stereo")
        audio.format = sample_format
        audio.bit_rate = 128_000
        if video is not None:
            for i in range(25):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * i, np.uint8), format="rgb24")
                picture.pts = picture_from + i
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        for position, pcm in pieces:
            # One block at a time, so that PyAV's own buffering does not close the gaps.
            for start in range(0, len(pcm), 1024):
                block = np.ascontiguousarray(pcm[start : start + 1024].T)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=audio.layout.name)
                frame.sample_rate, frame.pts, frame.time_base = rate_hz, position + start, Fraction(1, rate_hz)
                for converted in av.AudioResampler(format=sample_format, layout=audio.layout.name).resample(frame):
                    container.mux(audio.encode(converted))
        container.mux(audio.encode(None))
    return path


def read(path: Path) -> tuple[AudioFile, Float32]:
    with AudioFile(path) as audio:
        chunks = list(audio.chunks())
    for chunk in chunks:
        assert chunk.dtype == np.float32 and chunk.ndim == 2 and chunk.shape[1] == audio.channels
    return audio, np.concatenate(chunks)


def write_wav(path: Path, pcm: Float32, rate_hz: int = 16_000, codec: str = "pcm_f32le", kind: str = "flt") -> Path:
    return encode(path, codec, kind, rate_hz, [(0, pcm)])


@pytest.mark.parametrize(
    ("codec", "kind", "tolerance"),
    [
        ("pcm_u8", "u8", 1 / 128),
        ("pcm_s16le", "s16", 1 / 32768),
        ("pcm_s24le", "s32", 1e-6),
        ("pcm_s32le", "s32", 1e-6),
        ("pcm_f32le", "flt", 1e-7),
        ("pcm_f64le", "dbl", 1e-7),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_sample_format_gives_the_same_numbers(
    tmp_path: Path, codec: str, kind: str, tolerance: float, channels: int
) -> None:
    pcm = voice(11_025, channels, 0.4)
    audio, got = read(write_wav(tmp_path / "a.wav", pcm, 11_025, codec, kind))
    assert (audio.rate_hz, audio.channels, audio.damage) == (11_025, channels, None)
    assert audio.duration_s == pytest.approx(0.4, abs=1e-3)
    assert np.abs(got - pcm).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "codec", "kind", "rate_hz"),
    [
        ("a.flac", "flac", "s16", 44_100),
        ("a.m4a", "aac", "fltp", 16_000),
        ("a.m4a", "aac", "fltp", 44_100),
        ("a.mp3", "libmp3lame", "fltp", 22_050),
        ("a.mp3", "libmp3lame", "fltp", 44_100),
        ("a.ogg", "libopus", "flt", 48_000),
        ("a.webm", "libopus", "flt", 48_000),
        ("a.mkv", "aac", "fltp", 48_000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_sample_0_is_the_true_first_sample(
    tmp_path: Path, name: str, codec: str, kind: str, rate_hz: int, channels: int
) -> None:
    pcm = voice(rate_hz, channels)
    audio, got = read(encode(tmp_path / name, codec, kind, rate_hz, [(0, pcm)]))
    assert audio.channels == channels
    assert lag(to_mono(pcm), to_mono(got)) == 0
    assert lag(pcm[:, -1], got[:, -1]) == 0
    # Only Matroska does not say where the last block of AAC ends.
    assert 0 <= len(got) - len(pcm) <= (1024 if name == "a.mkv" else 0)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.mov", "pcm_s16le")])
@pytest.mark.parametrize(("position", "picture_from", "late"), [(0, 0, 0), (24_576, 0, 24_576), (24_576, 5, 14_976)])
def test_late_sound_of_a_video_is_padded(
    tmp_path: Path, name: str, codec: str, position: int, picture_from: int, late: int
) -> None:
    pcm = voice(48_000)
    path = encode(
        tmp_path / name, codec, "s16" if codec == "pcm_s16le" else "fltp", 48_000, [(position, pcm)], picture_from
    )
    audio, got = read(path)
    tolerance = 0 if late == 0 and name != "a.mkv" else 48  # Matroska's times and MP4's empty edits are in ms
    assert abs(lag(to_mono(pcm), to_mono(got)) - late) <= tolerance
    if late:
        assert not got[: late - 2_048].any()
    assert audio.damage is None
    assert audio.duration_s == pytest.approx(1.0 + late / 48_000, abs=0.6)


def test_late_sound_without_a_picture_is_not_padded(tmp_path: Path) -> None:
    pcm = voice(48_000)
    _, got = read(encode(tmp_path / "a.mkv", "pcm_s16le", "s16", 48_000, [(24_000, pcm)]))
    assert len(got) == len(pcm)


@pytest.mark.parametrize("hole", [480, 24_000, 200_000])
def test_a_hole_becomes_silence_unless_it_is_jitter(tmp_path: Path, hole: int) -> None:
    pcm = voice(48_000)
    first, second = pcm[:20_480], pcm[20_480:]
    path = encode(tmp_path / "a.mkv", "pcm_s16le", "s16", 48_000, [(0, first), (len(first) + hole, second)])
    _, got = read(path)
    filled = hole if hole > 960 else 0
    assert abs(len(got) - len(pcm) - filled) <= 48
    assert not got[len(first) + 48 : len(first) + filled - 48].any()
    assert np.abs(got[-len(second) :] - second).max() < 1e-4


def test_more_than_two_channels_are_mixed_down(tmp_path: Path) -> None:
    pcm = np.zeros((4_096, 6), np.float32)  # FL FR FC LFE BL BR
    pcm[:1024, 0] = pcm[1024:2048, 2] = pcm[2048:3072, 3] = pcm[3072:, 5] = 0.9
    audio, got = read(encode(tmp_path / "a.wav", "pcm_f32le", "flt", 48_000, [(0, pcm)], layout="5.1"))
    assert audio.channels == 2
    left, front, bass, rear = got[500], got[1500], got[2500], got[3500]
    assert left[0] > 0.3 and left[1] == 0
    assert front[0] == front[1] > 0.2
    assert not bass.any()
    assert rear[0] == 0 and rear[1] > 0.2
    _, loud = read(encode(tmp_path / "b.wav", "pcm_f32le", "flt", 48_000, [(0, np.ones_like(pcm))], layout="5.1"))
    assert np.abs(loud).max() <= 1.0 + 1e-6


def test_to_mono() -> None:
    assert to_mono(np.array([[1.0, 0.0], [0.5, -0.5]], np.float32)).tolist() == [0.5, 0.0]
    assert to_mono(np.ones((3, 1), np.float32)).shape == (3,)
    assert to_mono(np.ones(3, np.float32)).shape == (3,)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8_000)
        for _ in range(60):
            file.writeframes(bytes(2 * 8_000 * 10))
    with AudioFile(path) as audio:
        assert audio.duration_s == pytest.approx(600)
        sizes = [len(chunk) for chunk in audio.chunks()]
    assert sum(sizes) == 600 * 8_000 and max(sizes) <= 8_000 * 5


@pytest.mark.parametrize(
    ("name", "codec", "kind", "options"),
    [
        ("a.wav", "pcm_s16le", "s16", {}),
        ("a.flac", "flac", "s16", {}),
        ("a.mp3", "libmp3lame", "fltp", {}),
        ("a.m4a", "aac", "fltp", {"movflags": "faststart"}),
        ("a.mkv", "aac", "fltp", {}),
    ],
)
def test_a_cut_off_file_is_read_up_to_there(
    tmp_path: Path, name: str, codec: str, kind: str, options: dict[str, str]
) -> None:
    pcm = voice(44_100, 1, 3.0)
    path = encode(tmp_path / name, codec, kind, 44_100, [(0, pcm)], options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    audio, got = read(path)
    assert 1.2 * 44_100 < len(got) < 2.1 * 44_100
    assert lag(pcm[:, 0], got[:, 0]) == 0
    assert audio.damage is not None and f"at {len(got) / 44_100:.1f} s" in audio.damage and name in audio.damage


def test_rubbish_in_the_middle_ends_the_sound_there(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.m4a", "aac", "fltp", 44_100, [(0, voice(44_100, 1, 3.0))])
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half : half + 4_000] = np.random.default_rng(0).bytes(4_000)
    path.write_bytes(data)
    audio, got = read(path)
    assert 1.0 < len(got) / 44_100 < 2.0
    assert audio.damage is not None and "corrupt" in audio.damage


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    pcm = voice(16_000)
    pcm[8_000] = bad
    audio, got = read(write_wav(tmp_path / "middle.wav", pcm))
    assert len(got) == 8_000 and np.isfinite(got).all()
    assert audio.damage is not None and "at 0.5 s" in audio.damage and "NaN" in audio.damage
    pcm[0] = bad
    with pytest.raises(BadInputError, match="from the start"):
        AudioFile(write_wav(tmp_path / "start.wav", pcm))


def _no_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))


def _empty_wav(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8_000)


def _rubbish(path: Path) -> None:
    path.write_bytes(np.random.default_rng(3).bytes(20_000))


def _headless(path: Path) -> None:
    encode(path, "aac", "fltp", 44_100, [(0, voice(44_100))])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("missing.wav", lambda path: None, "there is no file"),
        ("folder.wav", lambda path: path.mkdir(), "is a folder"),
        ("zero.wav", lambda path: path.touch(), "zero bytes"),
        ("text.wav", lambda path: path.write_text("hello " * 100), "no audio or video file"),
        ("rubbish.wav", _rubbish, "no audio or video file"),
        ("rubbish.mp3", _rubbish, "corrupt from the start"),
        ("rubbish.flac", _rubbish, "corrupt from the start"),
        ("headless.m4a", _headless, "corrupt from the start"),
        ("silent.mp4", _no_sound, "has no sound in it"),
        ("empty.wav", _empty_wav, "not one sample"),
        ("x" * 300 + ".wav", lambda path: None, "cannot be opened"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path: Path, name: str, make: object, says: str) -> None:
    path = tmp_path / name
    assert callable(make)
    make(path)
    with pytest.raises(BadInputError) as caught:
        AudioFile(path)
    message = str(caught.value)
    assert says in message and "\n" not in message and ": " in message


def test_a_playlist_does_not_reach_other_files(tmp_path: Path) -> None:
    write_wav(tmp_path / "secret.wav", voice(16_000))
    path = tmp_path / "list.wav"
    path.write_text("ffconcat version 1.0\nfile secret.wav\n")
    with pytest.raises(BadInputError):
        AudioFile(path)


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "plain.wav", voice(16_000)).rename(tmp_path / "http:a.wav")
    monkeypatch.chdir(tmp_path)
    _, got = read(Path("http:a.wav"))
    assert len(got) == 16_000


def test_a_list_that_names_other_files_is_called_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "list.wav"
    path.write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    with pytest.raises(BadInputError, match=r"list\.wav is a playlist"):
        AudioFile(path)
