"""Smaller model files: weights as 8-bit integers with a scale for every output channel, or as half floats.

Only weights that have such values already (models/weights.py): nothing that a graph computes is changed by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from emo_live.models.weights import compactable, rounded

if TYPE_CHECKING:
    import openvino


def compress_weights(model: openvino.Model) -> int:
    """Rewrites large float constants of a graph in place, as far as that is exact; returns how many."""
    from openvino import Type
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != Type.f32 or len(node.shape) < 2:
            continue
        value = torch.from_numpy(node.data.copy())
        if not compactable(value):
            continue
        integers, scale = rounded(value)
        if torch.allclose(integers * scale, value, rtol=1e-5, atol=0):
            whole = ops.convert(ops.constant(integers.numpy()), Type.f32)
            small = ops.multiply(whole, ops.constant(scale.numpy()))
        elif torch.equal(value.half().float(), value):
            small = ops.convert(ops.constant(value.half().numpy()), Type.f32)
        else:
            continue
        readers = list(node.output(0).get_target_inputs())
        for reader in readers:
            reader.replace_source_output(small.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count
