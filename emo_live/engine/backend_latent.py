"""EMO on pictures in VAE latents, with weights from a model folder: loading, portraits, and the pieces of a window.

One backend serves all sessions of a process. It knows nothing of time and of how a window rolls: latent_generator.py.
Guidance runs both halves in one call, every row with its own portrait (what published pipelines deal out to wrong rows
is repeated in tests only). Tensors are on `device`; latents float32, networks in `dtype`, sound features float32.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from emo_live import hardware
from emo_live.avatar import Avatar
from emo_live.config import EmoConfig
from emo_live.engine.face_regions import face_regions
from emo_live.engine.published import OVERLAP, PublishedOptions, live_lengths, offline_lengths
from emo_live.errors import BadInputError, EngineError
from emo_live.models.attention import choose_kernel
from emo_live.models.compiled import Compiled, Mode
from emo_live.models.emo import Portrait
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.memory import memory_need
from emo_live.models.reference_net import Bank
from emo_live.models.sampler import guided
from emo_live.models.vae import CodecKind, load_codec
from emo_live.models.wav2vec import streaming_features
from emo_live.types import Float32, ModelFolder

DECODED_TOGETHER = 4  # pictures: of 512 px the VAE needs 1.6 GB for them in half precision


class LatentBackend:
    """checkpoint: called before every piece of work; compiled: says how the denoiser runs, and why. window_frames: of
    long windows, as many as there is memory for.

    Raises BadInputError where device or memory do not suffice.
    """

    def __init__(
        self, folder: ModelFolder, options: PublishedOptions, *, live: bool, size_px: int, threads: int | None = None
    ):
        self.config, self.name = folder.config, folder.name
        self.device = chosen_device(options.device)
        self.dtype = chosen_dtype(options.dtype, self.device)
        self.sampler_name, self.guidance = options.sampler, options.usual_guidance(live=live)
        self.checkpoint: Callable[[], None] = lambda: None
        codec = cast(CodecKind, options.vae or ("taesd" if live and folder.taesd is not None else "sd"))
        lengths = live_lengths(self.config)[-1:] if live else offline_lengths(self.config)
        guides = self.guidance > 1
        self.window_frames = fitting_window(folder, codec, self.device, self.dtype, lengths, size_px, guides)
        if threads is not None and self.device.type == "cpu":
            torch.set_num_threads(threads)
        with memory_hint():
            self.model = load_model(folder.emo, folder.config, self.device, self.dtype)
            choose_kernel(self.model, options.attention)
            self.hear = streaming_features(folder.sound, folder.config, self.device, torch.float32)
            modes: dict[bool | None, Mode] = {None: "auto" if live else "eager", True: "compile+graphs", False: "eager"}
            self.compiled = Compiled(self.model.velocity, self.device, modes[options.compile])
            self.codec = load_codec(folder, codec, self.device, self.dtype)

    @torch.inference_mode()
    def prepare(self, avatar: Avatar, size: int) -> Portrait:
        """Everything that does not change from window to window, with a row for each half of guidance."""
        self.checkpoint()
        with memory_hint():
            code = self.codec.encode(self._tensor(_pixels(avatar, size)[None], torch.float32))
            region, masks = face_regions(avatar.landmarks, self.config, size)
            face = self.config.face_projection
            # Nobody is recognised: networks that tell faces apart may not be used freely. Zeros are what the published
            # pipelines take where they find no face.
            unknown = torch.zeros(1, face.width if face else 0, device=self.device, dtype=self.dtype)
            levels = tuple((self._tensor(a), self._tensor(b), self._tensor(c)) for a, b, c in masks)
            portrait = self.model.prepare(code.to(self.dtype), self._tensor(region), levels, unknown)
            return self.model.with_guidance(portrait) if self.guidance > 1 else portrait

    @torch.inference_mode()
    def audio_tokens(self, sound: Float32, frames: int, rows: int) -> Tensor:
        """sound: (S,) that ends `m` steps behind the last of `frames` frames -> (rows, frames, L, D) tokens.

        Of two rows the first is guidance's unconditional one: zeros, put in behind the projection.
        """
        self.checkpoint()
        around = self.config.audio_projection.frames - 1
        features = self.hear(sound, frames + around).to(self.device, self.dtype)
        self.checkpoint()
        tokens = self.model.audio_tokens(features[None])
        return tokens if rows == 1 else torch.cat([torch.zeros_like(tokens), tokens])

    @torch.inference_mode()
    def motion_bank(self, latents: Tensor, portrait: Portrait) -> Bank:
        """(n, 4, h, w) latents of the motion frames -> their features, a row for each half of guidance."""
        self.checkpoint()
        rows = len(portrait.code)
        return self.model.motion_bank(latents.to(self.dtype).expand(rows, *latents.shape), portrait)

    @torch.inference_mode()
    def speed(self, degrees_per_s: float, frames: int, rows: int) -> Tensor | None:
        """(rows, frames, D), or None where the weights have no speed layers."""
        if self.config.speed is None:
            return None
        given = torch.full((rows, frames + 2 * self.config.speed.context), degrees_per_s, device=self.device)
        out: Tensor = self.model.speed_encoder(given.to(self.dtype))
        return out

    def strengths(self, motion: float) -> tuple[Tensor, ...]:
        """Of the sound in the whole picture, the face, the lips. As numbers, each would be compiled for itself."""
        return torch.tensor((motion, 1.0, 1.0), device=self.device).unbind()

    @torch.inference_mode()
    def velocity(
        self,
        noisy: Tensor,
        timestep: int,
        portrait: Portrait,
        motion: Bank | None,
        audio: Tensor,
        speed: Tensor | None,
        strengths: tuple[Tensor, ...],
    ) -> Tensor:
        """(T, 4, h, w) -> the guided v-prediction, float32, like it."""
        self.checkpoint()
        rows = len(portrait.code)
        x = noisy.to(self.dtype).expand(rows, *noisy.shape)
        times = torch.full((rows, len(noisy)), timestep, device=self.device)
        v = self.compiled(x, times, portrait, motion, audio, speed, strengths).float()
        return v[0] if rows == 1 else guided(v[0], v[1], self.guidance)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """(T, 4, h, w) -> (T, H, W, 3) uint8 on the device."""
        parts = []
        for part in latents.split(DECODED_TOGETHER):
            self.checkpoint()
            pictures = self.codec.decode(part)
            parts.append(((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        return torch.cat(parts).contiguous()

    def _tensor(self, array: Float32, dtype: torch.dtype | None = None) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype or self.dtype)

    def close(self) -> None:
        """Frees the weights; may be called twice."""
        self.model = self.compiled = self.codec = self.hear = None  # type: ignore[assignment]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_model(path: Path, config: EmoConfig, device: torch.device, dtype: torch.dtype) -> LatentEmo:
    """Weights straight from the file to where they are used, one after the other: no second copy is ever held."""
    from safetensors import SafetensorError, safe_open

    with torch.device("meta"):
        model = LatentEmo(config)
    state: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dict
                # Position codes are exact: half precision would move frames.
                kind = torch.float32 if name.endswith(".pe") else dtype
                state[name] = file.get_tensor(name).to(device, kind)
        model.load_state_dict(state, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = str(error).splitlines()[0]
        raise BadInputError(f"'{path}' is not what its manifest says ({first}): run emo-live weights verify") from error
    model.denoising_unet.drop_unused()
    model = model.eval().requires_grad_(False)
    if device.type == "cuda":  # on a CPU it would copy half of the weights for nothing
        cast(nn.Module, model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def chosen_device(wanted: str | None) -> torch.device:
    """Raises BadInputError for a device that is not there."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return torch.device("cuda" if there else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= there:
        found = f"{there} found" if there else "none found, or torch was built without CUDA"
        raise BadInputError(f"there is no device {wanted} ({found}): use another one, or cpu")
    return device


def chosen_dtype(wanted: str | None, device: torch.device) -> torch.dtype:
    if wanted is not None:
        return cast(torch.dtype, getattr(torch, wanted))
    if device.type == "cpu":
        return torch.float32
    with torch.cuda.device(device):  # cards before Ampere, a T4 for one, would compute bfloat16 in software
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def fitting_window(
    folder: ModelFolder,
    codec: CodecKind,
    device: torch.device,
    dtype: torch.dtype,
    lengths: tuple[int, ...],
    size: int,
    guides: bool,
) -> int:
    """The first of these lengths of a window that fits beside the weights. Raises BadInputError, with both figures,
    where none does."""
    if device.type == "cuda":
        usable: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        usable = hardware.memory().usable
    available = math.inf if usable is None else usable
    known = 0 if folder.config.motion_frames else OVERLAP  # frames that such a window makes once more
    for length in lengths:
        frames = length + known
        need = memory_need(folder.config, dtype, size, frames, guides, vae=codec, pictures_at_once=DECODED_TOGETHER)
        if need <= available:
            return length
    raise BadInputError(
        f"{folder.name} needs about {need / 1e9:.1f} GB on {device} with {_name(dtype)} at {size} px, "
        f"{available / 1e9:.1f} GB are free: use a smaller size, half precision (dtype), or no guidance"
    )


@contextlib.contextmanager
def memory_hint() -> Iterator[None]:
    """Running out of memory becomes an EngineError that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(_OUT_OF_MEMORY) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise EngineError(_OUT_OF_MEMORY) from error


_OUT_OF_MEMORY = (
    "out of memory: use a smaller size, guidance 1, dtype float16 or bfloat16, or vae taesd; other programs may hold "
    "memory of the same device"
)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _pixels(avatar: Avatar, size: int) -> Float32:
    """(3, size, size) in [-1, 1] of the portrait."""
    picture: Any = Image.fromarray(avatar.portrait)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1
