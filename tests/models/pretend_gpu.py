"""Run as a script, because torch takes a new device once a process: windows of a published model on a device that
exists as a name only. FakeTensor follows shapes and devices without computing, and refuses to mix devices as a GPU
would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from engine_mini import SIZE, backend
from fakes import bundled_avatar
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from emo_live.engine import latent_generator
from emo_live.engine.backend_latent import LatentBackend
from emo_live.engine.window import Controls, NextWindow
from emo_live.models.whisper_sound import WhisperSound

NAME = "pretended"


def move(part: object, device: torch.device, mode: FakeTensorMode, seen: set[int]) -> None:
    """All weights within `part` to the device, and whatever says where they are."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, nn.Module):
        for module in part.modules():
            for held in (module._parameters, module._buffers):
                for name, value in held.items():
                    if value is not None:
                        moved = mode.from_tensor(value.detach()).to(device)
                        held[name] = nn.Parameter(moved, False) if held is module._parameters else moved
        return
    for name, value in list(vars(part).items()) if hasattr(part, "__dict__") else ():
        assert not isinstance(value, Tensor), f"{type(part).__name__}.{name} would stay where it is"
        if isinstance(value, torch.device):
            setattr(part, name, device)
        else:
            move(value, device, mode, seen)


def without_values(data: Any, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """In place of torch.tensor, which computes with the values of small ones."""
    array = np.asarray(data)
    usual = torch.int64 if array.dtype.kind == "i" else torch.float32
    return torch.zeros(array.shape, dtype=dtype or usual, device=device)


def windows(made: LatentBackend, mode: FakeTensorMode) -> list[Tensor]:
    """Latents of two windows, the second of which continues the first, and the pictures of the second."""
    with mode:
        move(made, torch.device(NAME), mode, set())
        avatar = bundled_avatar()
        portrait = made.prepare(avatar, SIZE)
        maker = latent_generator.LatentGenerator(
            made, portrait, avatar, size=SIZE, seed=0, steps=2, controls=Controls()
        )
        sound = np.zeros(maker.context_samples, np.float32)
        first = maker.latents(NextWindow(0, 4, maker.first(), sound, lambda: None))
        second = maker.latents(NextWindow(4, 4, list(first[-maker.carried :]), sound, lambda: None))
        return [first, second, made.decode(second)]


def main() -> None:
    _setup_privateuseone_for_python_backend(NAME)
    # Read from their files before anything is pretended.
    hallo = backend("hallo", guidance=3.5, vae="sd", device="cpu")
    echomimic = backend("echomimic", guidance=1.0, vae="taesd", device="cpu")
    torch.tensor = without_values
    latent_generator.bool = lambda value: True  # type: ignore[attr-defined]
    WhisperSound.log_mel = lambda self, pcm: torch.zeros(80, len(pcm) // 160, device=self.device)  # type: ignore[method-assign]
    for made in (hallo, echomimic):
        for tensor in windows(made, FakeTensorMode(allow_non_fake_inputs=True)):
            print(tensor.device, tuple(tensor.shape))


main()
