"""Smaller model files: weights as 8-bit integers with a scale for every output channel. Arithmetic stays floating point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino

LEAST_VALUES = 4096  # smaller constants are not worth the rounding


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(O, ...) -> int8 (O, ...) and float32 scales (O, 1, ...): weight is about their product."""
    rest = tuple(range(1, weight.ndim))
    scale = np.maximum(np.abs(weight).max(rest, keepdims=True), 1e-8).astype(np.float32) / 127
    return np.round(weight / scale).astype(np.int8), scale


def compress_weights(model: openvino.Model) -> int:
    """Rewrites large float constants of a graph in place; returns how many."""
    from openvino import Type
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != Type.f32 or len(node.shape) < 2:
            continue
        value = node.data
        if value.size < LEAST_VALUES or value.shape[0] < 2:
            continue
        integers, scale = rounded(value)
        small = ops.multiply(ops.convert(ops.constant(integers), Type.f32), ops.constant(scale))
        readers = list(node.output(0).get_target_inputs())
        for reader in readers:
            reader.replace_source_output(small.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count
