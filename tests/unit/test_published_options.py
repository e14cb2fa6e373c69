"""What can be asked of engines with published weights, and what is said when it cannot: one line, before it loads."""

from __future__ import annotations

import importlib.util
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from fakes import PORTRAIT, bundled_avatar, decode, syllables, write_wav

from emo_live import AvatarSession, BadInputError, EnginePool, NotSupportedError, RenderOptions
from emo_live.cli import main
from emo_live.engine import published as published_module
from emo_live.engine.live import limits_of
from emo_live.engine.named import factory_of
from emo_live.engine.published import PublishedFactory, PublishedOptions

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMO_LIVE_WEIGHTS_ROOT", str(tmp_path / "weights"))


@pytest.fixture
def folder() -> Path:
    pytest.importorskip("torch")
    from engine_mini import mini_folder

    return mini_folder("hallo")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"engine": "hallo9"}, "there is no engine 'hallo9': use hallo, hallo2"),
        ({"sampler": "euler"}, "there is no sampler 'euler': use ddim, lcm, tcd, segment"),
        ({"vae": "tae"}, "use sd, taesd"),
        ({"dtype": "fp8"}, "use float32, bfloat16, float16"),
        ({"attention": "flash"}, "use sdpa, xformers, matmul"),
        ({"steps": 0}, "steps must be 1 to 100, not 0"),
        ({"steps": 101}, "steps must be 1 to 100, not 101"),
        ({"guidance": 0.5}, "guidance must be 1"),
        ({"guidance": float("nan")}, "guidance must be 1"),
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device must be cpu, cuda or cuda:N"),
    ],
)
def test_values_that_cannot_be_used(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        PublishedOptions(**{"engine": "hallo", **given})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 32, 100, 500, 1088, -64])
def test_sizes_are_multiples_of_64(size: int) -> None:
    with pytest.raises(BadInputError, match="size must be a multiple of 64 from 64 to 1024"):
        RenderOptions(engine="hallo", size=size)
    assert RenderOptions(engine="hallo", size=384, steps=40).published == PublishedOptions("hallo", steps=40)


def test_limits_of_the_tiny_model_stay_its_own() -> None:
    for given in ({"size": 384}, {"steps": 40}):
        with pytest.raises(BadInputError):
            RenderOptions(**given)
    with pytest.raises(BadInputError, match="no engine 'pattern' that renders"):
        RenderOptions(engine="pattern")


def test_usual_values() -> None:
    hallo, fast = PublishedOptions("hallo"), PublishedOptions("echomimic-acc")
    assert [hallo.usual_steps(live=live) for live in (False, True)] == [40, 4]
    assert [hallo.usual_guidance(live=live) for live in (False, True)] == [3.5, 1.0]
    assert [(fast.usual_steps(live=live), fast.usual_guidance(live=live)) for live in (False, True)] == [(6, 1.0)] * 2
    assert PublishedOptions("hallo", steps=9, guidance=2).usual_steps(live=True) == 9


@needs_torch
def test_weights_that_are_missing_name_the_command() -> None:
    for make in (
        lambda: factory_of("hallo"),
        lambda: EnginePool("echomimic-acc"),
        lambda: AvatarSession(bundled_avatar(), engine="joyhallo"),
    ):
        with pytest.raises(BadInputError, match="emo-live weights pull (hallo|echomimic-acc|joyhallo)"):
            make()


@pytest.mark.parametrize("missing", ["torch", "diffusers", "transformers"])
def test_a_missing_package_is_said_with_the_pip_line(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == missing else found(name, *rest)

    monkeypatch.setattr(published_module.importlib.util, "find_spec", find_spec)
    with pytest.raises(NotSupportedError, match=rf'{missing}.*pip install "emo-live\[gpu\]"'):
        AvatarSession(bundled_avatar(), engine="hallo")


def test_xformers_that_is_missing(folder: Path) -> None:
    if importlib.util.find_spec("xformers") is None:
        with pytest.raises(NotSupportedError, match="pip install xformers"):
            PublishedFactory(PublishedOptions("hallo", weights=folder, attention="xformers"))


def test_a_factory_can_be_pickled_and_knows_its_limits(folder: Path) -> None:
    factory = factory_of(PublishedOptions("hallo", weights=folder, steps=3), size_px=256)
    again = pickle.loads(pickle.dumps(factory))
    assert again == factory and limits_of(again).usual_steps == 3
    with pytest.raises(BadInputError, match="use engine 'hallo'"):
        factory_of(PublishedOptions("echomimic", weights=folder))
    with pytest.raises(BadInputError, match="steps must be 1 to 100"):
        AvatarSession(bundled_avatar(), engine=PublishedOptions("hallo", weights=folder), steps=101)
    with pytest.raises(BadInputError, match="multiple of 64"):
        AvatarSession(bundled_avatar(), engine=PublishedOptions("hallo", weights=folder), size=500)


class Command:
    """`emo-live render` with the small model."""

    def __init__(self, tmp_path: Path, folder: Path) -> None:
        self.out = tmp_path / "talk.mp4"
        sound = write_wav(tmp_path / "speech.wav", syllables(0.3))
        self.arguments = ["render", "--portrait", str(PORTRAIT), "--audio", str(sound), "--out", str(self.out)]
        self.arguments += ["--engine", "hallo", "--weights", str(folder), "--size", "128", "--quiet"]

    def __call__(self, *more: str) -> int:
        return main([*self.arguments, *more])


@pytest.fixture
def command(tmp_path: Path, folder: Path) -> Command:
    return Command(tmp_path, folder)


def test_a_file_is_rendered(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("--steps", "1", "--guidance", "1", "--vae", "taesd", "--device", "cpu") == 0
    assert capfd.readouterr() == ("", "")
    pictures, sound, rate_hz = decode(command.out)
    assert (len(pictures), pictures[0].shape, rate_hz) == (8, (128, 128, 3), 16_000)
    assert abs(len(sound) / rate_hz - 0.3) < 0.1


def test_the_whole_picture_around_it(command: Command) -> None:
    assert command("--steps", "1", "--guidance", "2", "--full-frame") == 0
    avatar, picture = bundled_avatar(), decode(command.out)[0][0]
    height, width = avatar.picture.shape[:2]
    assert picture.shape[:2] == (height // 2 * 2, width // 2 * 2)
    left = picture[:, :8].astype(int) - avatar.picture[: picture.shape[0], :8]
    assert np_mean(abs(left)) < 6, "beside the crop it is the picture itself"


def np_mean(values: Any) -> float:
    return float(values.mean())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--speed", "5"), "has no speed layers: leave --speed out"),
        (("--steps", "500"), "steps must be 1 to 100"),
        (("--size", "100"), "multiple of 64"),
        (("--sampler", "x"), "use ddim, lcm, tcd, segment"),
        (("--device", "cuda:7"), "there is no device cuda:7"),
        (("--engine", "tiny"), "'tiny' has no weights"),
        (("--weights", "/nowhere/at/all"), "emo-live weights convert"),
    ],
)
def test_what_cannot_be_is_one_line_and_no_file(
    command: Command, capfd: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    assert command(*more) == 2
    out, err = capfd.readouterr()
    assert words in err and err.count("\n") == 1 and out == ""
    assert not command.out.exists()


def test_too_little_memory_is_said_with_both_figures(
    command: Command, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo_live.hardware import Memory

    monkeypatch.setattr("emo_live.hardware.memory", lambda: Memory(2_000_000_000, 300_000_000, None))
    assert command() == 2
    message = capfd.readouterr().err
    assert "GB on cpu with float32 at 128 px, 0.3 GB are free" in message and "needs about" in message


def test_a_file_that_is_not_the_model(command: Command, folder: Path, tmp_path: Path) -> None:
    import shutil

    from emo_live.engine.backend_latent import load_model
    from emo_live.weights import open_model

    copy = shutil.copytree(folder, tmp_path / "copy")
    whole = (copy / "emo.safetensors").read_bytes()
    import torch

    for broken in (whole[: len(whole) // 2], b"", b"\x00" * len(whole), whole.replace(b"conv_in", b"conv_on")):
        (copy / "emo.safetensors").write_bytes(broken)
        with pytest.raises(BadInputError, match="emo-live weights verify"):
            load_model(copy / "emo.safetensors", open_model(folder).config, torch.device("cpu"), torch.float32)


@needs_torch
def test_names_are_those_of_the_models() -> None:
    from emo_live.models.attention import KERNELS
    from emo_live.models.sampler import SAMPLERS
    from emo_live.weights.catalogue import CATALOGUE

    assert published_module.SAMPLERS == SAMPLERS
    assert set(published_module.ATTENTIONS) == set(KERNELS)
    assert set(published_module.USUAL) == set(CATALOGUE)


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "chosen"),
    [
        (None, "cpu", True, "float32"),
        (None, "cuda", True, "bfloat16"),
        (None, "cuda:1", False, "float16"),
        ("bfloat16", "cuda", False, "bfloat16"),
        ("float16", "cpu", True, "float16"),
    ],
)
def test_the_number_format_that_the_device_computes(
    wanted: str | None, device: str, has_bfloat16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from emo_live.engine.backend_latent import chosen_dtype

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert chosen_dtype(wanted, torch.device(device)) == getattr(torch, chosen)
