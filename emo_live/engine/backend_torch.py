"""The tiny model in torch: for training, parity tests and GPUs. Reads weights.safetensors of the same model folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.avatar import Avatar
from emo_live.config import TINY
from emo_live.engine.base import Prepared, WindowInputs
from emo_live.engine.locator_mask import locator_mask
from emo_live.engine.motion_prior import FaceMotion, MotionPrior
from emo_live.engine.pictures import MOUTH_SIZE, mouth_origin
from emo_live.models.audio import WhisperEncoder
from emo_live.models.autoencoder import Autoencoder
from emo_live.models.emo import Portrait, TinyEmo
from emo_live.models.gestures import Gestures
from emo_live.models.hearing import Hearing
from emo_live.models.weights import load_state, part_of
from emo_live.types import Float32


class TorchBackend:
    """folder: holds weights.safetensors (parts by prefix) and prior.npz."""

    name = "torch"

    def __init__(self, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.prior = MotionPrior.load(folder / "prior.npz")
        self.device, self.dtype = torch.device(device), dtype
        self.emo, self.whisper = TinyEmo(TINY), WhisperEncoder(TINY.whisper)
        self.autoencoder = Autoencoder(TINY.autoencoder)
        self.hearing, self.gesture_net = Hearing(TINY.emo.audio_projection), Gestures(TINY.gestures)
        parts: dict[str, nn.Module] = {
            "hearing.": self.hearing,
            "gestures.": self.gesture_net,
            "emo.": self.emo,
            "whisper.": self.whisper,
            "autoencoder.": self.autoencoder,
        }
        state = load_state(folder / "weights.safetensors")
        for prefix, module in parts.items():
            module.load_state_dict(part_of(state, prefix))
            module.eval().requires_grad_(False).to(self.device, dtype)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)

    @staticmethod
    def _array(x: Tensor) -> Float32:
        return x.float().cpu().numpy()

    @torch.inference_mode()
    def prepare(self, avatar: Avatar) -> Prepared:
        portrait = self._tensor(avatar.portrait.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
        x, y = origin = mouth_origin(avatar.landmarks)
        mask = self._tensor(locator_mask(avatar.landmarks, TINY.mask_size)[None])
        face, inside = self.autoencoder.look(portrait, portrait[:, :, y : y + MOUTH_SIZE, x : x + MOUTH_SIZE])
        emo = self.emo.prepare(F.avg_pool2d(portrait, 2), mask)
        features = {"emo": emo, "face": face, "inside": inside}
        return Prepared(avatar, avatar.portrait, origin, FaceMotion(self.prior, avatar.landmarks), features)

    @torch.inference_mode()
    def hear(self, mel: Float32) -> Float32:
        return self._array(self.whisper(self._tensor(mel[None])))[0]

    @torch.inference_mode()
    def shapes(self, sound: Float32) -> Float32:
        return self._array(self.hearing(self._tensor(sound[None])))[0]

    @torch.inference_mode()
    def gestures(self, noise: Float32, speed: float) -> Float32:
        return self._array(self.gesture_net(self._tensor(noise[None]), self._tensor(np.array([speed]))))[0]

    @torch.inference_mode()
    def denoise(self, avatar: Prepared, noisy: Float32, timestep: int, given: WindowInputs) -> Float32:
        emo, portrait = self.emo, avatar.features["emo"]
        assert isinstance(portrait, Portrait)
        times = torch.full((1, len(noisy)), timestep, device=self.device)
        x, motion, anchor, sound, speed = (
            self._tensor(array[None]) for array in (noisy, given.motion, given.anchor, given.sound, given.speed)
        )
        bank, tokens, pace = emo.motion_bank(motion, portrait), emo.audio_tokens(sound), emo.speed_encoder(speed)
        return self._array(emo.denoise(x, times, portrait, bank, anchor, tokens, pace)[0])

    @torch.inference_mode()
    def motion(self, avatar: Prepared, latents: Float32) -> Float32:
        return self._array(self.autoencoder.flow(self._tensor(latents), avatar.features["face"]))

    @torch.inference_mode()
    def paint(self, avatar: Prepared, warped: Float32, motion: Float32) -> Float32:
        return self._array(
            self.autoencoder.mouth(self._tensor(warped), self._tensor(motion), avatar.features["inside"])
        )

    def close(self) -> None:
        pass
