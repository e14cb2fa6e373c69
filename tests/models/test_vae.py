"""Picture codecs from model folders: scaling, precision, order in memory, what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mini_checkpoint import MINI_CONFIGS, TAESD, VAE, randomised, write_taesd, write_vae  # noqa: E402

from emo_live.errors import BadInputError  # noqa: E402
from emo_live.models.vae import SdCodec, TaesdCodec, load_codec  # noqa: E402
from emo_live.types import ModelFolder  # noqa: E402

CPU = torch.device("cpu")
KINDS: Any = ("sd", "taesd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    root = tmp_path_factory.mktemp("codecs")
    write_vae(root / "vae")
    write_taesd(root / "taesd")
    sound = root / "sound"
    return ModelFolder(
        "mini", "hallo", MINI_CONFIGS["hallo"], root, root / "emo.safetensors", sound, root / "vae", root / "taesd"
    )


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 64, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1


def sd_model() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return randomised(AutoencoderKL(**VAE))


def taesd_model() -> Any:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    return randomised(AutoencoderTiny(**TAESD))


def test_sd_latents_are_the_scaled_mean(folder: ModelFolder, pictures: torch.Tensor) -> None:
    codec, model = load_codec(folder, "sd", CPU, torch.float32), sd_model()
    code = codec.encode(pictures)
    assert code.shape == (3, 4, 8, 16)
    torch.testing.assert_close(code, model.encode(pictures).latent_dist.mode() * 0.18215, rtol=0, atol=1e-6)
    assert torch.equal(codec.encode(pictures), code), "no chance in it"
    expected = model.decode(code / 0.18215).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.decode(code), expected, rtol=0, atol=1e-5)


def test_taesd_works_on_scaled_latents_already(folder: ModelFolder, pictures: torch.Tensor) -> None:
    """Multiplied by 0.18215 once more, they would be nearly grey."""
    codec, model = load_codec(folder, "taesd", CPU, torch.float32), taesd_model()
    torch.testing.assert_close(codec.encode(pictures), model.encode(pictures).latents, rtol=0, atol=1e-6)
    code = codec.encode(pictures) * 20
    torch.testing.assert_close(codec.decode(code), model.decode(code).sample.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(folder: ModelFolder, pictures: torch.Tensor, kind: Any, dtype: torch.dtype) -> None:
    exact, rough = (load_codec(folder, kind, CPU, kept) for kept in (torch.float32, dtype))
    code = exact.encode(pictures)
    for ours, theirs in ((rough.encode(pictures), code), (rough.decode(code), exact.decode(code))):
        assert ours.dtype == torch.float32 and ours.isfinite().all()
        assert (ours - theirs).square().mean().sqrt() < 0.05 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("make", [lambda layout: SdCodec(sd_model(), CPU, layout)])
def test_orders_in_memory_agree(make: Any, pictures: torch.Tensor) -> None:
    plain, last = make(torch.contiguous_format), make(torch.channels_last)
    code = plain.encode(pictures)
    torch.testing.assert_close(last.encode(pictures), code, rtol=0, atol=1e-4)
    torch.testing.assert_close(last.decode(code), plain.decode(code), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_a_batch_do_not_meet(folder: ModelFolder, pictures: torch.Tensor, kind: Any) -> None:
    codec = load_codec(folder, kind, CPU, torch.float32)
    code = codec.encode(pictures)
    torch.testing.assert_close(torch.cat([codec.encode(p[None]) for p in pictures]), code, rtol=0, atol=1e-5)
    alone = torch.cat([codec.decode(c[None]) for c in code])
    torch.testing.assert_close(alone, codec.decode(code), rtol=0, atol=1e-4)


def test_pictures_are_clamped(folder: ModelFolder) -> None:
    out = load_codec(folder, "taesd", CPU, torch.float32).decode(torch.randn(1, 4, 8, 8) * 1e4)
    assert out.min() == -1 or out.max() == 1
    assert out.abs().max() <= 1


def test_what_is_missing(folder: ModelFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match="weights pull mini, or choose vae=sd"):
        load_codec(replace(folder, taesd=None), "taesd", CPU, torch.float32)
    with pytest.raises(BadInputError, match="choose sd or taesd"):
        load_codec(folder, "other", CPU, torch.float32)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="cannot read the picture codec"):
        load_codec(replace(folder, vae=tmp_path), "sd", CPU, torch.float32)
    write_vae(tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(BadInputError, match="cannot read the picture codec"):
        load_codec(replace(folder, vae=tmp_path / "cut"), "sd", CPU, torch.float32)
    write_vae(tmp_path / "more")
    config = json.loads((tmp_path / "more" / "config.json").read_text())
    (tmp_path / "more" / "config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    with pytest.raises(BadInputError, match="not complete"):
        load_codec(replace(folder, vae=tmp_path / "more"), "sd", CPU, torch.float32)
    capfd.readouterr()
    load_codec(folder, "sd", CPU, torch.float16)
    load_codec(folder, "taesd", CPU, torch.float16)
    assert capfd.readouterr() == ("", ""), "loading prints nothing"


def test_kinds_share_no_scaling() -> None:
    assert SdCodec(sd_model(), CPU).scale == 0.18215 and TaesdCodec(taesd_model(), CPU).scale == 1
