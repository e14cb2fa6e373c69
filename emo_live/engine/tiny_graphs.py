"""Names that the exporter and the backends of the tiny model agree on."""

from __future__ import annotations

from emo_live.config import TINY

GRAPHS = ("hear", "shapes", "gestures", "prepare", "denoise", "motion", "paint")


def layers() -> list[str]:
    """Backbone layers that read the reference, in the order in which they run."""
    config = TINY.emo.backbone
    last = len(config.block_channels) - 1
    down = [
        f"down_blocks.{i}.attentions.{j}"
        for i in range(last + 1)
        if config.attention_levels[i]
        for j in range(config.layers_per_block)
    ]
    up = [
        f"up_blocks.{i}.attentions.{j}"
        for i in range(last + 1)
        if config.attention_levels[last - i]
        for j in range(config.layers_per_block + 1)
    ]
    return [f"{name}.transformer_blocks.0" for name in [*down, "mid_block.attentions.0", *up]]


def bank_inputs() -> list[str]:
    """What `prepare` computes once per avatar and `denoise` takes, in order."""
    levels = range(len(TINY.emo.backbone.block_channels))
    masks = [f"mask{level}_{name}" for level in levels for name in ("full", "face", "lip")]
    return ["code", "locator", *masks, *[f"bank:{name}" for name in layers()]]
