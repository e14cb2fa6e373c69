"""Weights are rounded once: packing again changes nothing, and a compressed graph computes nearly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emo_live.errors import EngineError
from emo_live.models.weights import LEAST_VALUES, compactable, load_state, pack_state, part_of, rounded, unpack_state

EXACT = ("flow",)


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(80, 64) * torch.logspace(-4, 1, 80)[:, None],
        "kernel": torch.randn(24, 32, 3, 3),
        "flow.kernel": torch.randn(24, 32, 3, 3),
        "bias": torch.randn(80),
        "small": torch.randn(8, 8),
        "count": torch.tensor([3, 4]),
        "row": torch.randn(1, 5000),
        "dead": torch.zeros(64, 64),
    }


def test_packing_twice_is_packing_once(state: dict[str, Tensor]) -> None:
    first = unpack_state(pack_state(state, EXACT))
    again = unpack_state(pack_state(first, EXACT))
    assert first.keys() == again.keys() == state.keys()
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=0, msg=name)
    packed, repacked = pack_state(state, EXACT), pack_state(first, EXACT)
    for name in ("matrix", "kernel", "dead"):
        assert torch.equal(packed[name], repacked[name]), "the very same integers"


def test_large_matrices_become_bytes(state: dict[str, Tensor]) -> None:
    packed = pack_state(state, EXACT)
    kinds = {name: value.dtype for name, value in packed.items()}
    assert {name for name, kind in kinds.items() if kind == torch.int8} == {"matrix", "kernel", "dead"}
    assert packed["kernel.scale"].shape == (24, 1, 1, 1) and kinds["kernel.scale"] == torch.float32
    assert all(kinds[name] == torch.float16 for name in ("flow.kernel", "bias", "small", "row"))
    assert torch.equal(packed["count"], state["count"])


def test_rounding_errs_by_half_a_step_of_its_row(state: dict[str, Tensor]) -> None:
    back = unpack_state(pack_state(state, EXACT))
    for name in ("matrix", "kernel"):
        error = (back[name] - state[name]).abs().flatten(1).amax(1)
        step = state[name].abs().flatten(1).amax(1) / 127
        assert (error <= 0.501 * step).all() and (error > 0.3 * step).all()
        assert back[name].dtype == torch.float32
    assert not back["dead"].any()
    integers, _ = rounded(state["matrix"])
    assert (integers.abs().amax(1) == 127).all()


def test_what_is_too_small_to_round() -> None:
    assert compactable(torch.zeros(2, LEAST_VALUES // 2)) and not compactable(torch.zeros(2, LEAST_VALUES // 2 - 1))
    assert not compactable(torch.zeros(LEAST_VALUES)) and not compactable(torch.zeros(1, LEAST_VALUES))
    assert not compactable(torch.zeros(2, LEAST_VALUES, dtype=torch.int64))


def test_files_and_parts(state: dict[str, Tensor], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    packed = pack_state({f"emo.{name}": value for name, value in state.items()}, ("emo.flow",))
    save_file(packed, tmp_path / "weights.safetensors")
    loaded = part_of(load_state(tmp_path / "weights.safetensors"), "emo.")
    expected = unpack_state(pack_state(state, EXACT))
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    with pytest.raises(EngineError, match="reinstall"):
        load_state(tmp_path / "none.safetensors")


traced = pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")  # by OpenVINO, when it reads a module


class Graph(nn.Module):
    """Matrices and kernels large enough to be rounded, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.last = nn.Conv2d(16, 64, 3), nn.Linear(64 * 36, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.first(torch.relu(self.conv(x)).flatten(1))))
        return out


def answers(graph: object, x: Tensor) -> np.ndarray:
    """Without OpenVINO's rounding of activations, which it does by default before rounded weights."""
    import openvino as ov

    compiled = ov.Core().compile_model(
        graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    )
    return np.array(compiled([x.numpy()])[0])


@traced
def test_weights_that_are_not_rounded_are_left_alone() -> None:
    ov = pytest.importorskip("openvino")
    from emo_live.training.compress import compress_weights

    module, x = Graph().eval(), torch.randn(4, 16, 8, 8)
    rounded_state = unpack_state(pack_state(module.state_dict(), ()))
    module.conv.load_state_dict(part_of(rounded_state, "conv."))
    graph = ov.convert_model(module, example_input=x)
    before = answers(graph, x)
    assert compress_weights(graph) == 1
    np.testing.assert_allclose(answers(graph, x), before, atol=1e-5)


@traced
def test_halves_stay_exact_halves() -> None:
    ov = pytest.importorskip("openvino")
    from emo_live.training.compress import compress_weights

    module, x = Graph().half().float().eval(), torch.randn(4, 16, 8, 8)
    graph = ov.convert_model(module, example_input=x)
    before = answers(graph, x)
    assert compress_weights(graph) == 2
    kinds = [node.get_element_type() for node in graph.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count(ov.Type.f16) == 2
    np.testing.assert_allclose(answers(graph, x), before, atol=1e-5)


@traced
def test_rounded_weights_stay_as_they_are_in_a_graph() -> None:
    """A model that was rounded as its file is gives the same answers compressed: all runtimes compute with one set."""
    ov = pytest.importorskip("openvino")
    from emo_live.training.compress import compress_weights

    module, x = Graph().eval(), torch.randn(4, 16, 8, 8)
    module.load_state_dict(unpack_state(pack_state(module.state_dict(), ())))
    with torch.no_grad():
        expected = module(x).numpy()
    graph = ov.convert_model(module, example_input=x)
    assert compress_weights(graph) == 2
    kinds = [node.get_element_type() for node in graph.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count(ov.Type.i8) == 2
    np.testing.assert_allclose(answers(graph, x), expected, atol=2e-5 * np.abs(expected).max() + 1e-5)
