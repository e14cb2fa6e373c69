"""Pictures to the latents that the published sizes work on, and back: Stable Diffusion's VAE, or TAESD in its place.

TAESD is smaller (a seventeenth of the work) and less exact, on the same latents. It knows nothing of time: pictures are
coded one by one, in one batch. What the published pipelines do with pictures between windows: checkpoints/hallo.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from emo_live.errors import BadInputError, NotSupportedError
from emo_live.models.libraries import silent
from emo_live.types import ModelFolder

CodecKind = Literal["sd", "taesd"]


class PictureCodec(Protocol):
    """H and W are multiples of 8; h = H / 8, w = W / 8. Results are float32, whatever the codec computes in."""

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 4, h, w): the posterior's mean, scaled to about unit variance. No chance."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, H, W), clamped to [-1, 1]."""
        ...


class _Codec:
    """A diffusers autoencoder, frozen, on whole pictures (no slices, no tiles). On a GPU in channels-last order, which
    its convolutions are made for."""

    def __init__(self, model: Any, device: torch.device, layout: torch.memory_format | None = None):
        default = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.layout = layout or default
        self.model = model.eval().requires_grad_(False).to(device, memory_format=self.layout)
        self.scale: float = model.config.scaling_factor

    def _in(self, x: Tensor) -> Tensor:
        return x.to(self.model.device, self.model.dtype, memory_format=self.layout)

    def _code(self, pictures: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        return self._code(self._in(pictures)).float() * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        out: Tensor = self.model.decode(self._in(latents.float() / self.scale), return_dict=False)[0]
        return out.float().clamp(-1, 1)


class SdCodec(_Codec):
    """Stable Diffusion 1.5's VAE (diffusers' AutoencoderKL; arXiv 2112.10752)."""

    def _code(self, pictures: Tensor) -> Tensor:
        mean: Tensor = self.model.encode(pictures, return_dict=False)[0].mean
        return mean


class TaesdCodec(_Codec):
    """TAESD (diffusers' AutoencoderTiny), which has no posterior, and whose latents are scaled already."""

    def _code(self, pictures: Tensor) -> Tensor:
        code: Tensor = self.model.encode(pictures, return_dict=False)[0]
        return code


def load_codec(folder: ModelFolder, kind: CodecKind, device: torch.device, dtype: torch.dtype) -> PictureCodec:
    """The codec of a model folder. Raises BadInputError where it is missing or broken."""
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    except ModuleNotFoundError as error:
        raise NotSupportedError('pictures of this engine need diffusers: pip install "emo-live[gpu]"') from error

    if kind == "sd":
        return SdCodec(_read(AutoencoderKL, folder.vae, dtype), device)
    if kind == "taesd":
        if folder.taesd is None:
            raise BadInputError(
                f"{folder.path} has no TAESD: run emo-live weights pull {folder.name}, or choose vae=sd"
            )
        return TaesdCodec(_read(AutoencoderTiny, folder.taesd, dtype), device)
    raise BadInputError(f"there is no codec {kind!r}: choose sd or taesd")


def _read(model: Any, folder: Path, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError

    try:
        with silent("diffusers"):
            found, report = model.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
                torch_dtype=dtype,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInputError(f"cannot read the picture codec in {folder}: {str(error).splitlines()[0]}") from error
    if missing := sorted(report["missing_keys"]):
        raise BadInputError(f"{folder} is not complete: {len(missing)} tensors missing, as {missing[0]}")
    return found
