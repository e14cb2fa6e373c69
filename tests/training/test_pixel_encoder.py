"""Motion latents from pixels: right for motion that is known, better with training, on clips too."""

from __future__ import annotations

from pathlib import Path

import films
import numpy as np
import pytest
import torch
from torch import Tensor

from emo_live.config import TINY
from emo_live.models.autoencoder import Autoencoder, MotionBasis
from emo_live.training.autoencoder import sampling_grid, warp
from emo_live.training.encoder_stage import (
    EncoderLoss,
    Task,
    face_errors,
    like_a_camera,
    load_encoder,
    mixed,
    moved,
    new_encoder,
    reconstruct,
    shown,
    train_on_frames,
)
from emo_live.training.frame_data import FrameBatches, Shard
from emo_live.training.pixel_encoder import PixelEncoder, RoughFlow, as_pictures, as_pixels, encode_frames, half_size
from emo_live.training.run import Budget, optimizers


@pytest.fixture
def encoder(basis: MotionBasis) -> PixelEncoder:
    """Not trained: it gives what the optical flow finds."""
    torch.manual_seed(0)
    return new_encoder(basis)


@pytest.fixture
def autoencoder(basis: MotionBasis) -> Autoencoder:
    """Not trained: it decodes what the linear basis holds."""
    torch.manual_seed(0)
    model = Autoencoder(TINY.autoencoder)
    model.flow.basis.load_state_dict(basis.state_dict())
    return model.eval().requires_grad_(False)


@pytest.fixture
def batch(shards: list[Shard]) -> dict[str, Tensor]:
    return FrameBatches(shards, 2, 2, 0).draw()


def half(picture: np.ndarray) -> np.ndarray:
    return np.asarray(as_pixels(half_size(as_pictures(picture[None])))[0])


def mean_flow(basis: MotionBasis, z: np.ndarray) -> np.ndarray:
    """(T, C, h, w) -> (T, 2): mean of the decoded flow over the face, px of 128."""
    return np.asarray(basis.decode(torch.from_numpy(z))[:, :2, 40:100, 40:88].mean((2, 3)).numpy())


def test_pixels_and_pictures_are_the_same_thing() -> None:
    picture = films.portrait()[None]
    assert np.array_equal(as_pixels(as_pictures(picture)), picture)


def test_a_moved_picture_gives_the_flow_back_to_where_it_was(encoder: PixelEncoder, basis: MotionBasis) -> None:
    picture = films.portrait()
    moves = [(0, 0), (12, 0), (0, -8), (-20, 16)]
    frames = np.stack([half(films.placed(picture, x, y)) for x, y in moves])
    z = encode_frames(encoder, half(picture), frames)
    assert z.shape == (4, 16, 16, 16) and z.dtype == np.float32
    assert np.allclose(z[0], 0, atol=1e-4)
    # px of 512 -> px of 128, backwards
    assert np.allclose(mean_flow(basis, z), -np.array(moves) / 4, atol=0.12)


def test_a_zoom_gives_flow_towards_the_middle(encoder: PixelEncoder, basis: MotionBasis) -> None:
    picture = films.portrait()
    z = encode_frames(encoder, half(picture), half(films.placed(picture, 0, 0, 1.06))[None])
    flow = basis.decode(torch.from_numpy(z))[0, 0, 40:100].mean(0).numpy()
    columns = np.arange(128) + 0.5 - 64
    assert np.polyfit(columns[40:88], flow[40:88], 1)[0] == pytest.approx(1 / 1.06 - 1, abs=0.012)


def test_latents_describe_rendered_frames_before_any_training(
    encoder: PixelEncoder, autoencoder: Autoencoder, batch: dict[str, Tensor]
) -> None:
    made, _ = face_errors(reconstruct(encoder, autoencoder, batch)["picture"], batch)
    copied, _ = face_errors(half_size(batch["portrait"]), batch)
    assert made.mean() < 0.4 * copied.mean()


def test_errors_are_those_within_the_boxes(batch: dict[str, Tensor]) -> None:
    made = batch["frame"].clone()
    made[:, :, :40] += 1  # above every face
    face, mouth = face_errors(made, batch)
    assert face.abs().max() == mouth.abs().max() == 0
    face, mouth = face_errors(batch["frame"] + 0.5, batch)
    assert torch.allclose(face, torch.tensor(0.25)) and torch.allclose(mouth, torch.tensor(0.25))


def test_a_camera_takes_detail_but_leaves_the_picture(batch: dict[str, Tensor]) -> None:
    seen = like_a_camera(batch["frame"], np.random.default_rng(0))
    assert seen.shape == batch["frame"].shape and seen.abs().max() <= 1
    assert 0.005 < (seen - batch["frame"]).abs().mean() < 0.1
    assert not torch.equal(seen[0] - batch["frame"][0], seen[1] - batch["frame"][1])


def test_moved_frames_are_still_made_by_their_motion(batch: dict[str, Tensor]) -> None:
    def made(batch: dict[str, Tensor]) -> Tensor:
        return warp(half_size(batch["portrait"]), sampling_grid(batch["motion"][:, :2], 256))

    far = moved(batch, 9, -6)
    inside, before = (slice(None), slice(None), slice(20, 200), slice(40, 230)), batch["motion"]
    assert torch.equal(far["frame"][:, :, 20:180, 40:200], batch["frame"][:, :, 32:192, 22:182])
    assert torch.equal(far["motion"][:, 0, :90, 20:], before[:, 0, 6:96, 11:119] - 9)
    assert torch.equal(far["motion"][:, 2, :90, 20:], before[:, 2, 6:96, 11:119])
    error = (made(far) - far["frame"]).abs()[inside].mean()
    assert error == pytest.approx(float((made(batch) - batch["frame"]).abs()[inside].mean()), rel=0.25)
    assert torch.allclose(far["boxes"] - batch["boxes"], torch.tensor([9.0, -6, 9, -6]) / 128, atol=1e-6)


def losses(loss: EncoderLoss, batch: dict[str, Tensor], encoder: PixelEncoder, steps: int) -> list[float]:
    optims, values = optimizers(encoder, 0.01, 3e-3), []
    for _ in range(steps):
        torch.manual_seed(0)
        loss.random = np.random.default_rng(0)  # the same camera every time
        out = loss(batch)["loss"]
        out.backward()
        for optim in optims:
            optim.step()
            optim.zero_grad()
        values.append(out.item())
    return values


def test_training_on_rendered_frames_lowers_the_loss(
    encoder: PixelEncoder, autoencoder: Autoencoder, batch: dict[str, Tensor]
) -> None:
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    values = losses(EncoderLoss(encoder, autoencoder, 0), batch, encoder, 11)
    assert values[-1] < 0.88 * values[0]
    assert all(torch.equal(before[name], value) for name, value in autoencoder.state_dict().items())


def test_first_only_latents_count(encoder: PixelEncoder, autoencoder: Autoencoder, batch: dict[str, Tensor]) -> None:
    out = EncoderLoss(encoder, autoencoder, 0, lambda: 0.1)(batch)
    assert out.keys() == {"loss", "latent"} and torch.equal(out["loss"], out["latent"])


def test_training_on_clips_sees_only_pictures(
    encoder: PixelEncoder, autoencoder: Autoencoder, batch: dict[str, Tensor]
) -> None:
    real = {**batch, "motion": torch.full_like(batch["motion"], torch.nan), "real": torch.ones(())}
    loss = EncoderLoss(encoder, autoencoder, 0)
    with torch.no_grad():
        encoder.conv_out.bias.normal_(0, 0.3)  # something to repair
    start = loss(real)
    assert start["real_near"] > 0.01, "latents moved away from those before"
    values = losses(loss, real, encoder, 5)
    assert values[-1] < 0.9 * values[0]


def test_clips_say_nothing_about_the_inside_of_the_mouth(
    encoder: PixelEncoder, autoencoder: Autoencoder, batch: dict[str, Tensor]
) -> None:
    hole = torch.zeros(1, 1, 128, 128)
    hole[..., 60:70, 50:80] = 0.5
    mask = shown(hole, 5)
    assert mask.shape == (1, 1, 256, 256) and set(mask.unique().tolist()) == {0, 1}
    assert mask[..., 116:144, 96:164].max() == 0 and mask[..., :116, :].min() == 1
    loss, real = EncoderLoss(encoder, autoencoder, 0), {**batch, "real": torch.ones(())}
    with torch.no_grad():
        before, noise = float(loss(real)["real_photo"]), torch.rand_like(batch["mouth"])
        assert float(loss({**real, "mouth": noise})["real_photo"]) == before


def test_batches_are_rendered_and_real_in_turn_or_of_the_one_kind_there_is(shards: list[Shard]) -> None:
    def kinds(task: Task) -> set[bool]:
        batches = mixed(task, 4, 0)
        return {"real" in next(batches) for _ in range(8)}

    assert kinds(Task(shards, [], [], [])) == {False}
    assert kinds(Task([], [], shards, [])) == {True}
    assert kinds(Task(shards, [], shards, [])) == {False, True}


def test_a_run_leaves_an_encoder_that_can_be_loaded_and_pictures(
    encoder: PixelEncoder, autoencoder: Autoencoder, work: Path, tmp_path: Path
) -> None:
    (tmp_path / "basis.pt").write_bytes((work / "basis.pt").read_bytes())
    (tmp_path / "frames").symlink_to(work / "frames")
    films.checkpoint(autoencoder, tmp_path / "autoencoder")
    names = sorted(path.stem for path in (work / "frames").glob("*.npz"))
    out = tmp_path / "encoder"
    train_on_frames(tmp_path, (names[:1], names[1:]), out, Budget(minutes=60, steps=2, batch=2, seed=0))
    assert [path.name for path in out.glob("*.png")] == ["sample_000002.png"]
    loaded = load_encoder(tmp_path, "encoder")
    assert not torch.equal(loaded.conv_out.weight, encoder.conv_out.weight)
    assert torch.equal(loaded.basis.basis, encoder.basis.basis)


def test_rough_flow_does_not_mind_brightness() -> None:
    picture = half(films.portrait())
    moved = half(films.placed(films.portrait(), 8, 4))
    darker = (moved * 0.8 + 10).astype(np.uint8)
    flow = RoughFlow()(picture, darker)[:, 40:100, 40:88].mean((1, 2))
    assert flow == pytest.approx([-2, -1], abs=0.15)
