"""Footage: pictures and sound of any film on one clock."""

from __future__ import annotations

from pathlib import Path

import films
import numpy as np
import pytest

from emo_live.errors import BadInputError
from emo_live.training.footage import MAX_SIDE_PX, Footage, video_files
from emo_live.types import MODEL_RATE_HZ, UInt8


def greys(count: int, width: int = 64, height: int = 48) -> list[UInt8]:
    """Pictures that say by their grey which they are."""
    return [np.full((height, width, 3), 40 + 2 * i, np.uint8) for i in range(count)]


@pytest.mark.parametrize(("rate", "every"), [(24, 1), (25, 1), (30, 1), (50, 2), (60, 2), (100, 4)])
def test_pictures_come_at_their_times_and_no_more_than_needed(tmp_path: Path, rate: int, every: int) -> None:
    footage = Footage(films.write(tmp_path / "a.mp4", greys(20), rate))
    assert footage.rate_hz == pytest.approx(rate / every)
    times, pictures = zip(*footage.pictures(), strict=True)
    assert np.allclose(times, np.arange(0, 20, every) / rate, atol=1e-4)
    assert np.allclose([picture.mean() for picture in pictures], 40 + 2 * np.arange(0, 20, every), atol=1.5)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_film_comes_upright(tmp_path: Path, degrees: int) -> None:
    upright = films.portrait()[:, 64:448]
    lying = np.ascontiguousarray(np.rot90(upright, -degrees // 90))
    path = films.write(tmp_path / "a.mp4", [lying] * 2, prepare=lambda stream: stream.set_display_rotation(degrees))
    _, picture = next(Footage(path).pictures())
    assert picture.shape == upright.shape
    assert np.abs(picture.astype(float) - upright).mean() < 3


def test_wide_pixels_become_square_and_large_pictures_smaller(tmp_path: Path) -> None:
    def widen(stream: object) -> None:
        stream.codec_context.sample_aspect_ratio = 2  # type: ignore[attr-defined]

    _, picture = next(Footage(films.write(tmp_path / "a.mp4", greys(2), prepare=widen)).pictures())
    assert picture.shape == (48, 128, 3)
    _, picture = next(Footage(films.write(tmp_path / "b.mp4", greys(2, MAX_SIDE_PX * 2, 480))).pictures())
    assert picture.shape == (240, MAX_SIDE_PX, 3)


@pytest.mark.parametrize("late", [0, 10])
def test_sound_is_counted_from_the_first_picture(tmp_path: Path, late: int) -> None:
    """A tone sets in after 1 s of sound; with the picture `late` pictures later it is heard so much earlier."""
    path = films.write(tmp_path / "a.mkv", greys(50), sound=films.voice(2.4, start_s=1.0), from_picture=late)
    pcm = Footage(path).sound()
    onset_s = np.flatnonzero(np.abs(pcm) > 0.05)[0] / MODEL_RATE_HZ
    assert onset_s == pytest.approx(1.0 - late / 25, abs=0.004)


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    slow = films.write(tmp_path / "slow.mp4", greys(12), rate=12)
    mute = films.write(tmp_path / "mute.mp4", greys(12))
    with pytest.raises(BadInputError, match=r"^text\.mp4 is no video"):
        Footage(tmp_path / "text.mp4")
    with pytest.raises(BadInputError, match=r"^slow\.mp4 has 12 pictures a second: 20 are the least$"):
        Footage(slow)
    with pytest.raises(BadInputError, match=r"^mute\.mp4 has no sound in it"):
        Footage(mute).sound()


def test_a_damaged_end_ends_the_film(tmp_path: Path) -> None:
    path = films.write(tmp_path / "a.mkv", [films.portrait()] * 50)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert 10 < len(list(Footage(path).pictures())) < 50


def test_finds_films_in_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.MOV", "b/a.webm", "notes.txt", "b/face.jpg"):
        (tmp_path / name).touch()
    assert video_files(tmp_path) == [tmp_path / "b" / "a.webm", tmp_path / "z.MOV"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no video files"):
        video_files(tmp_path / "empty")
    with pytest.raises(BadInputError, match="is no folder"):
        video_files(tmp_path / "z.MOV")
