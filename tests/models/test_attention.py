"""All kernels compute one function; extra keys join the context; one row of them serves its neighbours."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable

import pytest
import torch
from mini_checkpoint import MINI_CONFIGS, mini_call
from torch import Tensor, nn

from emo_live.errors import BadInputError, NotSupportedError
from emo_live.models.attention import KERNELS, Attention, attention, choose_kernel, repeat_rows
from emo_live.models.backbone import Backbone
from emo_live.models.latent_emo import LatentEmo
from emo_live.weights.manifest import Model

Draw = Callable[..., Tensor]
Randomised = Callable[[nn.Module], nn.Module]
HAS_XFORMERS = importlib.util.find_spec("xformers") is not None


def by_definition(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """In float64, one head after the other."""
    parts = [x.double().chunk(heads, -1) for x in (q, k, v)]
    out = [(a @ b.mT / a.shape[-1] ** 0.5).softmax(-1) @ c for a, b, c in zip(*parts, strict=True)]
    return torch.cat(out, -1).float()


SIZES = [(1, 1, 1, 8, 1), (2, 5, 7, 16, 4), (3, 64, 128, 96, 4), (2, 9, 4, 24, 8), (1, 33, 33, 320, 8)]


@pytest.mark.parametrize("kernel", ["sdpa", "matmul"])
@pytest.mark.parametrize(("batch", "queries", "keys", "width", "heads"), SIZES)
def test_kernels_agree(draw: Draw, kernel: str, batch: int, queries: int, keys: int, width: int, heads: int) -> None:
    q, k, v = draw(batch, queries, width), draw(batch, keys, width), draw(batch, keys, width)
    torch.testing.assert_close(attention(q, k, v, heads, kernel), by_definition(q, k, v, heads), rtol=0, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_XFORMERS, reason="xformers is not installed")
@pytest.mark.parametrize(("batch", "queries", "keys", "width", "heads"), SIZES)
def test_xformers_agrees(draw: Draw, batch: int, queries: int, keys: int, width: int, heads: int) -> None:
    q, k, v = draw(batch, queries, width).cuda(), draw(batch, keys, width).cuda(), draw(batch, keys, width).cuda()
    ours, expected = attention(q, k, v, heads, "xformers"), attention(q, k, v, heads, "matmul")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)


def test_xformers_gets_the_layout_it_documents(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """(B, L, heads, D / heads), where there is no GPU to run it on."""

    def by_its_manual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("blhd,bmhd->bhlm", q * q.shape[-1] ** -0.5, k).softmax(-1)
        return torch.einsum("bhlm,bmhd->blhd", weights, v)

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = by_its_manual  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    q, k, v = draw(2, 5, 16), draw(2, 7, 16), draw(2, 7, 16)
    torch.testing.assert_close(attention(q, k, v, 4, "xformers"), by_definition(q, k, v, 4), rtol=0, atol=2e-6)


@pytest.mark.skipif(HAS_XFORMERS, reason="xformers is installed")
def test_missing_xformers_says_what_to_install(draw: Draw) -> None:
    with pytest.raises(NotSupportedError, match="pip install xformers"):
        attention(*(draw(1, 2, 8) for _ in range(3)), heads=2, kernel="xformers")
    with pytest.raises(NotSupportedError, match="pip install xformers"):
        choose_kernel(Attention(8, 2), "xformers")


def test_the_layer_uses_the_kernel_it_is_told(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setitem(KERNELS, "spy", lambda q, k, v: used.append(q.shape) or q)
    layer = Attention(8, 2)
    choose_kernel(layer, "spy")
    layer(draw(3, 5, 8))
    assert used == [(3, 2, 5, 4)]


def test_models_in_one_process_keep_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers of one, none of the other's, whichever was chosen last; layers made later have the usual one."""
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    config = MINI_CONFIGS["hallo"].backbone
    first, second = Backbone(config), Backbone(config)
    choose_kernel(first, "xformers")
    choose_kernel(second, "matmul")
    kernels = [{x.kernel for x in model.modules() if isinstance(x, Attention)} for model in (first, second)]
    assert kernels == [{"xformers"}, {"matmul"}]
    assert Attention(8, 2).kernel == "sdpa"


@pytest.mark.parametrize("name", ["hallo", "echomimic"])
def test_a_whole_denoiser_is_the_same_with_every_kernel(draw: Draw, randomised: Randomised, name: Model) -> None:
    model = LatentEmo(MINI_CONFIGS[name])
    randomised(model)
    outs = []
    for kernel in ("sdpa", "matmul"):
        choose_kernel(model, kernel)
        outs.append(model.velocity(*mini_call(model, frames=2, side=16)))
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=2e-5)


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(BadInputError, match='unknown attention kernel "flash": choose one of sdpa, matmul, xformers'):
        choose_kernel(Attention(8, 2), "flash")


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_extra_keys_join_the_context(draw: Draw, randomised: Randomised, rows: int) -> None:
    """Two avatars of three frames; the reference comes as one row, one for each avatar, or one for each frame."""
    layer, x, extra = randomised(Attention(16, 4)), draw(6, 5, 16), draw(rows, 7, 16)
    joined = torch.cat([x, torch.stack([extra[i * rows // 6] for i in range(6)])], 1)
    torch.testing.assert_close(layer(x, extra=extra), layer(x, joined), rtol=0, atol=1e-6)


def test_rows_repeat_in_place() -> None:
    assert repeat_rows(torch.tensor([[1], [2]]), 6).flatten().tolist() == [1, 1, 1, 2, 2, 2]
