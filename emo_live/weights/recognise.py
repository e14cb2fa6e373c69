"""Says what a file of weights seems to be, by the names and shapes in it, so that a mix-up can be told from damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]

_FIRST_ATTN2 = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def looks_like(shapes: Shapes) -> str | None:
    """A phrase such as "EchoMimic's motion module", or None. The first description that fits is the most special."""
    return next((text for fits, text in _KINDS if fits(shapes)), None)


def _has(*parts: str) -> Callable[[Shapes], bool]:
    """All of these occur in names."""
    return lambda shapes: all(any(part in name for name in shapes) for part in parts)


def _starts(*prefixes: str) -> Callable[[Shapes], bool]:
    """All of these begin some name."""
    return lambda shapes: all(any(name.startswith(prefix) for name in shapes) for prefix in prefixes)


def _attn2(width: int) -> Callable[[Shapes], bool]:
    return lambda shapes: shapes.get(_FIRST_ATTN2, ())[1:] == (width,)


def _locator(channels: int) -> Callable[[Shapes], bool]:
    return lambda shapes: "blocks.0.weight" in shapes and shapes.get("conv_in.weight", ())[1:2] == (channels,)


def _motion_only(shapes: Shapes) -> bool:
    return bool(shapes) and all("motion_module" in name for name in shapes)


def _not(fits: Callable[[Shapes], bool]) -> Callable[[Shapes], bool]:
    return lambda shapes: not fits(shapes)


def _both(*all_of: Callable[[Shapes], bool]) -> Callable[[Shapes], bool]:
    return lambda shapes: all(fits(shapes) for fits in all_of)


_UNET = _both(_starts("down_blocks.", "mid_block.", "up_blocks."), _has("transformer_blocks"))
_NET = _starts("reference_unet.", "denoising_unet.", "face_locator.")

_KINDS: tuple[tuple[Callable[[Shapes], bool], str], ...] = (
    (lambda shapes: any("lora" in name.lower() for name in shapes), "a LoRA, which is no model by itself"),
    (_both(_NET, _has(".audio_modules.", ".attn2_1.")), "net.pth of Hallo or Hallo2"),
    (_both(_NET, _has(".audio_modules.", ".attn2_0.")), "net.pth of JoyHallo"),
    (_both(_NET, _not(_has(".audio_modules."))), "EchoMimic's files joined"),
    (
        _has("quantize.embedding", "position_emb"),
        "a network that restores faces (CodeFormer, or net_g.pth of hallo2)",
    ),
    (_starts("model.diffusion_model."), "a whole Stable Diffusion model in the original layout"),
    (_starts("controlnet_cond_embedding."), "a ControlNet"),
    (_motion_only, "a motion module (EchoMimic's motion_module.pth, or AnimateDiff's)"),
    (_both(_UNET, _has("audio_modules")), "a denoising network of Hallo by itself; the whole net.pth is needed"),
    (_both(_UNET, _starts("add_embedding.")), "the UNet of Stable Diffusion XL"),
    (_both(_UNET, _attn2(384)), "EchoMimic's denoising_unet.pth"),
    (_both(_UNET, _attn2(1024)), "the UNet of Stable Diffusion 2"),
    (_both(_UNET, _attn2(768), _starts("conv_out.")), "the UNet of Stable Diffusion 1.x"),
    (_both(_UNET, _attn2(768)), "a reference network with attn2, such as Hallo's or AnimateAnyone's"),
    (_both(_UNET, _not(_has(".attn2."))), "EchoMimic's reference_unet.pth"),
    (_locator(1), "EchoMimic's face_locator.pth"),
    (_locator(3), "a face locator for three channels (Hallo's, or EchoMimic's for landmarks)"),
    (_starts("encoder.down_blocks.", "decoder.up_blocks."), "a VAE (diffusers' AutoencoderKL)"),
    (_starts("encoder.down.", "decoder.up."), "a VAE in the original layout; diffusers' folder is needed"),
    (_starts("encoder.layers.", "decoder.layers."), "TAESD (diffusers' AutoencoderTiny)"),
    (_has("conv_layers.0.0.weight"), "wav2vec2 in fairseq's layout; transformers' folder is needed"),
    (_has("feature_extractor.conv_layers", "encoder.pos_conv_embed"), "wav2vec2"),
    (_has("encoder.blocks.0.attn.query"), "whisper in OpenAI's layout"),
    (_has("encoder.layers.0.self_attn.q_proj", "conv1"), "whisper in transformers' layout"),
    (_UNET, "a UNet of another kind"),
)
