"""What training paints is what the engine paints: the same flow, the same square, the same mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import bundled_avatar, plain_prior
from PIL import Image, ImageFilter
from torch import Tensor

from emo_live.config import TINY
from emo_live.engine.base import Prepared
from emo_live.engine.motion_prior import FaceMotion
from emo_live.engine.pictures import MOUTH_SIZE, PictureMaker
from emo_live.models.autoencoder import Autoencoder, MotionBasis
from emo_live.training.autoencoder import decode
from emo_live.training.frame_data import Shard
from emo_live.training.motion_data import MotionData
from emo_live.types import Float32


class Painting:
    """The trained parts in torch behind what the engine asks of a backend for its pictures."""

    def __init__(self, model: Autoencoder, face: Tensor, inside: Tensor):
        self.model, self.face, self.inside = model, face, inside

    def motion(self, avatar: Prepared, latents: Float32) -> Float32:
        with torch.no_grad():
            return self.model.flow(torch.from_numpy(latents), self.face).numpy()

    def paint(self, avatar: Prepared, warped: Float32, motion: Float32) -> Float32:
        with torch.no_grad():
            return self.model.mouth(torch.from_numpy(warped), torch.from_numpy(motion), self.inside).numpy()


@pytest.fixture(scope="module")
def model(basis: MotionBasis) -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(TINY.autoencoder)
    made.flow.basis.load_state_dict(basis.state_dict())
    torch.nn.init.normal_(made.flow.conv_out.weight, std=0.002)  # as after training: not only the linear part
    return made


def both(model: Autoencoder, portrait: np.ndarray, origin: tuple[int, int], z: Tensor, size: int) -> Any:
    """The training's decoding, and the engine's pictures in -1..1 (T, 3, size, size)."""
    picture = torch.from_numpy(portrait.copy()).permute(2, 0, 1).float() / 127.5 - 1
    batch = {
        "portrait": picture.expand(len(z), -1, -1, -1),
        "origin": torch.tensor([origin] * len(z)),
        "mouth": torch.zeros(1, 3, MOUTH_SIZE, MOUTH_SIZE),  # only its size is read
    }
    with torch.no_grad():
        trained = decode(model, batch, z)
        x, y = origin
        face, inside = model.look(picture[None], picture[None, :, y : y + MOUTH_SIZE, x : x + MOUTH_SIZE])
    prepared = Prepared(bundled_avatar(), portrait, origin, FaceMotion(plain_prior(), bundled_avatar().landmarks), {})
    backend: Any = Painting(model, face, inside)
    shown = PictureMaker(backend, prepared, size).make(z.numpy())
    return trained, torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 127.5 - 1


def levels(a: Tensor, b: Tensor) -> Tensor:
    """Differences in steps of 8-bit pictures."""
    return (a.clamp(-1, 1) - b.clamp(-1, 1)).abs() * 127.5


@pytest.fixture(scope="module")
def z(data: MotionData) -> Tensor:
    return torch.from_numpy(data.tracks[0].z[[10, 30, 45]].astype(np.float32))


def soft(portrait: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(portrait).filter(ImageFilter.GaussianBlur(4)))


@pytest.mark.parametrize("origin", [(180, 292), (4, 364)])
def test_the_mouth_at_512_px(model: Autoencoder, shards: list[Shard], z: Tensor, origin: tuple[int, int]) -> None:
    x, y = origin
    for portrait, mean, largest in ((soft(shards[0].portrait), 0.5, 4), (shards[0].portrait, 1.5, 60)):
        trained, shown = both(model, portrait, origin, z, 512)
        difference = levels(trained["mouth"], shown[..., y : y + MOUTH_SIZE, x : x + MOUTH_SIZE])
        assert difference.mean() < mean and difference.max() < largest
        still = levels(trained["mouth"][0], trained["mouth"][1])
        assert still.mean() > 2 * difference.mean()


def test_the_picture_at_256_px(model: Autoencoder, shards: list[Shard], z: Tensor) -> None:
    portrait, (x, y), half = soft(shards[0].portrait), (180, 292), MOUTH_SIZE // 2
    trained, shown = both(model, portrait, (x, y), z, 256)
    away = torch.ones(256, 256, dtype=torch.bool)
    away[y // 2 : y // 2 + half, x // 2 : x // 2 + half] = False
    difference = levels(trained["picture"], shown)[..., away]
    assert difference.mean() < 0.5 and difference.max() < 4
    reduced = torch.nn.functional.avg_pool2d(trained["mouth"].clamp(-1, 1), 2)
    square = levels(reduced, shown[..., y // 2 : y // 2 + half, x // 2 : x // 2 + half])
    assert square.mean() < 0.6 and square.max() < 4
