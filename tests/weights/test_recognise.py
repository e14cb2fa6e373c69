"""Published files are recognised by their names and shapes, at full size."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from emo_live.weights.keys import check_keys
from emo_live.weights.recognise import Shapes, looks_like

DATA = Path(__file__).parents[1] / "golden/data/keys.json.xz"


@pytest.fixture(scope="module")
def published() -> dict[str, Shapes]:
    lists = json.loads(lzma.decompress(DATA.read_bytes()))
    return {name.split(" ")[0]: {k: tuple(v) for k, v in keys.items()} for name, keys in lists.items()}


def test_published_files(published: dict[str, Shapes]) -> None:
    net = published["net.pth"]
    joyhallo = {k: v for k, v in net.items() if ".attn2_1." not in k and ".attn2_2." not in k}
    assert {name.split("/")[-1]: looks_like(keys) for name, keys in {**published, "joyhallo": joyhallo}.items()} == {
        "net.pth": "net.pth of Hallo or Hallo2",
        "joyhallo": "net.pth of JoyHallo",
        "reference_unet.pth": "EchoMimic's reference_unet.pth",
        "denoising_unet.pth": "EchoMimic's denoising_unet.pth",
        "motion_module.pth": "a motion module (EchoMimic's motion_module.pth, or AnimateDiff's)",
        "face_locator.pth": "EchoMimic's face_locator.pth",
        "whisper_tiny.pt": "whisper in OpenAI's layout",
    }


def part(keys: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in keys.items() if name.startswith(prefix)}


def test_networks_that_users_mix_up(published: dict[str, Shapes]) -> None:
    net = published["net.pth"]
    denoiser = part(net, "denoising_unet.")
    unet = {k: v for k, v in denoiser.items() if "motion_modules" not in k and "audio_modules" not in k}
    assert looks_like(unet) == "the UNet of Stable Diffusion 1.x"
    assert looks_like({**unet, "add_embedding.linear_1.weight": (1,)}) == "the UNet of Stable Diffusion XL"
    assert looks_like(part(net, "reference_unet.")) == (
        "a reference network with attn2, such as Hallo's or AnimateAnyone's"
    )
    assert looks_like(denoiser) == "a denoising network of Hallo by itself; the whole net.pth is needed"
    assert looks_like(part(net, "face_locator.")) == (
        "a face locator for three channels (Hallo's, or EchoMimic's for landmarks)"
    )
    assert looks_like({"model.diffusion_model.input_blocks.0.0.weight": (1,)}) == (
        "a whole Stable Diffusion model in the original layout"
    )
    assert looks_like({"lora_unet_down_blocks_0.lora_up.weight": (1, 1)}) == "a LoRA, which is no model by itself"
    assert looks_like({"weight": (1,)}) is looks_like({}) is None


def test_a_swap_is_said_with_counts_and_first_names(published: dict[str, Shapes]) -> None:
    from emo_live.errors import BadInputError

    expected, found = published["denoising_unet.pth"], published["reference_unet.pth"]
    with pytest.raises(BadInputError) as caught:
        check_keys("denoising_unet.pth", "denoising_unet of echomimic", expected, found)
    message = str(caught.value)
    assert "of 686 tensors are missing (" in message
    assert message.endswith("the file seems to be EchoMimic's reference_unet.pth") and len(message) < 600
