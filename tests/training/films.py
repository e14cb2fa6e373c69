"""Films for the tests, made of a bundled portrait: moved by known amounts, with a voice. And checkpoints of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import nn

from emo_live.types import Float32, UInt8

PORTRAITS = Path(__file__).resolve().parents[2] / "emo_live" / "assets" / "portraits"
RATE_HZ = 48_000


def portrait(name: str = "faker_male_30") -> UInt8:
    """(512, 512, 3)"""
    with Image.open(PORTRAITS / f"{name}.jpg") as file:
        return np.asarray(file.convert("RGB").resize((512, 512), Image.Resampling.LANCZOS))


def placed(picture: UInt8, x: float, y: float, zoom: float = 1.0, size: tuple[int, int] = (512, 512)) -> UInt8:
    """The picture on a wall of `size`: moved by x and y px to the right and down from its middle, and zoomed."""
    (width, height), side = size, picture.shape[0]
    back = (1 / zoom, 0, side / 2 - (width / 2 + x) / zoom, 0, 1 / zoom, side / 2 - (height / 2 + y) / zoom)
    wall = tuple(int(v) for v in picture[4, 4])
    moved = Image.fromarray(picture).transform(
        size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC, fillcolor=wall
    )
    return np.asarray(moved)


def voice(seconds: float, start_s: float = 0.0) -> Float32:
    """(S,) at RATE_HZ: a tone that becomes louder and softer four times a second; silent before start_s."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = 0.3 * np.sin(2 * np.pi * 220 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    return np.asarray(wave * (t >= start_s), np.float32)


def checkpoint(module: nn.Module, folder: Path) -> None:
    """What a finished stage leaves for those after it."""
    folder.mkdir()
    trained = [name for name, _ in module.named_parameters()]
    torch.save({"ema": module.state_dict(), "trained": trained}, folder / "state.pt")


def write(
    path: Path,
    pictures: Sequence[UInt8],
    rate: int = 25,
    sound: Float32 | None = None,
    *,
    from_picture: int = 0,
    prepare: Callable[[av.VideoStream], object] = lambda stream: None,
) -> Path:
    """A film. from_picture: how many pictures later than the sound the picture starts."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "10", "preset": "ultrafast"})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        prepare(video)
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono") if sound is not None else None
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i + from_picture, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            wave = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound)[None], format="fltp", layout="mono")
            wave.sample_rate, wave.pts, wave.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            container.mux(audio.encode(wave))
            container.mux(audio.encode(None))
    return path
