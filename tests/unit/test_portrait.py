"""Pictures of every kind become upright RGB; what cannot be used is refused with advice."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from emo_live.errors import BadInputError
from emo_live.face import portrait
from emo_live.face.portrait import BACKGROUND, load_picture

HEIGHT, WIDTH = 96, 128


def gradient() -> np.ndarray:
    """(96, 128, 3): red grows to the right, green downwards, blue is 60; every orientation looks different."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([columns * 2, rows * 2, np.full_like(rows, 60)], axis=-1).astype(np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size but has nearly no data."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"\0" * 10)) + part(b"IEND", b"")


@pytest.mark.parametrize("give", ["path", "str", "bytes", "image", "array"])
def test_every_kind_of_source_gives_the_same_picture(give: str, tmp_path: Path) -> None:
    pixels = gradient()
    file = tmp_path / "me.png"
    file.write_bytes(encode(Image.fromarray(pixels)))
    sources = {
        "path": file,
        "str": str(file),
        "bytes": file.read_bytes(),
        "image": Image.fromarray(pixels),
        "array": pixels,
    }
    result = load_picture(sources[give])
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int) -> None:
    upright = Image.fromarray(gradient())
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(load_picture(encode(stored, exif=exif.tobytes())), gradient())


def test_transparent_parts_lie_on_light_grey() -> None:
    pixels = np.dstack([gradient(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[:, :40, 3] = 0
    result = load_picture(encode(Image.fromarray(pixels)))
    np.testing.assert_array_equal(result[:, :40], np.broadcast_to(BACKGROUND, (HEIGHT, 40, 3)))
    np.testing.assert_array_equal(result[:, 40:], gradient()[:, 40:])
    np.testing.assert_array_equal(load_picture(pixels), result)


def test_palette_with_a_transparent_colour() -> None:
    image = Image.fromarray(gradient()).quantize(16)
    result = load_picture(encode(image, transparency=int(np.asarray(image)[0, 0])))
    assert tuple(result[0, 0]) == BACKGROUND
    assert tuple(result[-1, -1]) != BACKGROUND


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "GIF"), ("YCbCr", "JPEG")])
def test_colour_modes_keep_the_colours(mode: str, kind: str) -> None:
    flat = Image.new("RGB", (WIDTH, HEIGHT), (204, 102, 51))
    result = load_picture(encode(flat.convert(mode), kind))
    assert np.abs(result.astype(int) - (204, 102, 51)).max() <= 6


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_modes_become_three_equal_channels(mode: str) -> None:
    result = load_picture(encode(Image.new("L", (WIDTH, HEIGHT), 255).convert(mode)))
    np.testing.assert_array_equal(result, np.full((HEIGHT, WIDTH, 3), 255, np.uint8))


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))
    result = load_picture(encode(Image.fromarray(ramp)))
    assert np.abs(result[0, :, 1].astype(float) - ramp[0] / 257).max() <= 1
    np.testing.assert_array_equal(load_picture(ramp), result)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    result = load_picture(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert tuple(result[5, 5]) == (255, 0, 0)


def test_a_colour_profile_is_followed() -> None:
    lab_white = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = load_picture(encode(Image.fromarray(gradient()), icc_profile=lab_white))
    assert np.abs(result.astype(int) - gradient()).max() <= 1
    broken = load_picture(encode(Image.fromarray(gradient()), icc_profile=b"not a profile"))
    np.testing.assert_array_equal(broken, gradient())


def test_arrays_of_floats_and_one_channel() -> None:
    shares = (gradient()[:, :, :1] / 255).astype(np.float64)
    result = load_picture(shares)
    np.testing.assert_array_equal(result[:, :, 2], gradient()[:, :, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_pictures_are_reduced(kind: str) -> None:
    result = load_picture(encode(Image.new("RGB", (8200, 1000), (10, 200, 30)), kind))
    assert result.shape[1] == portrait.MAX_SIDE_PX and abs(result.shape[0] - 500) <= 1
    assert np.abs(result[250, 2000].astype(int) - (10, 200, 30)).max() <= 3


def test_the_given_pillow_image_is_left_alone() -> None:
    image = Image.open(io.BytesIO(encode(Image.new("RGB", (5000, 100)), "JPEG")))
    load_picture(image)
    assert image.size == (5000, 100)


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"", "0 bytes"),
        (b"hello, this is text", "not a picture"),
        (png_header(10_000, 10_000), "64 megapixels"),
        (png_header(8_001, 8_001), "megapixels"),
        (png_header(60_000, 60_000), "megapixels"),
        (png_header(300, 300), "truncated"),
        (encode(Image.fromarray(gradient()), "JPEG")[:900], "truncated"),
        (encode(Image.new("RGB", (40, 300))), "40 x 300 px"),
        (encode(Image.new("RGB", (12_000, 70))), "px: give one"),
        (encode(Image.new("RGB", (WIDTH, HEIGHT)), "EPS"), "EPS drawing"),
    ],
)
def test_unusable_bytes_are_refused(data: bytes, advice: str) -> None:
    with pytest.raises(BadInputError, match=advice) as caught:
        load_picture(data)
    assert "\n" not in str(caught.value)


def test_unusable_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no file"):
        load_picture(tmp_path / "none.jpg")
    with pytest.raises(BadInputError, match="is a folder"):
        load_picture(tmp_path)
    with pytest.raises(BadInputError, match="zero byte"):
        load_picture("bad\0name.jpg")
    large = tmp_path / "large.jpg"
    with large.open("wb") as stream:
        stream.truncate(portrait.MAX_FILE_BYTES + 1)
    with pytest.raises(BadInputError, match="larger than 50 MB"):
        load_picture(large)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((100, 100, 2), np.uint8),
        np.zeros((100,), np.uint8),
        np.zeros((100, 100, 3), np.int64),
        np.full((100, 100, 3), np.nan, np.float32),
        np.full((100, 100, 3), 200.0, np.float32),
        np.zeros((10, 100, 3), np.uint8),
        np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)),
    ],
)
def test_unusable_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(BadInputError):
        load_picture(array)


def test_other_types_are_refused() -> None:
    with pytest.raises(BadInputError, match="not int"):
        load_picture(7)  # type: ignore[arg-type]
