"""Published sizes under the rolling window: noise -> k denoising steps -> latents -> pictures, for one session.

Hallo's family continues from motion frames: the newest latents go through the ReferenceNet as they are (published
pipelines decode and encode them again), before the first frame the portrait's own do. EchoMimic has no motion frames:
its windows overlap, and the frames that are known are put back at every step with as much noise as belongs there
(cf. arXiv 2201.09865), so that temporal layers join the new ones to them. Noise belongs to the frame: the same seed
gives the same frames in chunks of any size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emo_live.avatar import Avatar
from emo_live.engine.backend_latent import LatentBackend, memory_hint
from emo_live.engine.live import LiveSettings
from emo_live.engine.motion_prior import WhiteNoise
from emo_live.engine.published import OVERLAP
from emo_live.engine.window import HISTORY, Controls, Latent, NextWindow, PicturesTaken, WindowPolicy
from emo_live.errors import EngineError
from emo_live.media.image import PastedCrop
from emo_live.models.emo import Portrait
from emo_live.models.sampler import NoiseSchedule, make_sampler
from emo_live.types import MODEL_STEP_SAMPLES, UInt8

ECHOMIMIC_NOISE = 1.5  # its first noise is cut off there, as upstream does
_FIRST_STREAM = 2  # of white noise; 0 and 1 are the tiny model's


class LatentGenerator:
    """One session. size: side of the pictures that are generated; full_frame: they are put back into the whole picture.

    controls.motion is what the sound does to everything outside the face (Hallo's pose weight); controls.speed is
    followed by weights with speed layers only, the motion of EchoMimic's cannot be set.
    """

    def __init__(
        self,
        backend: LatentBackend,
        portrait: Portrait,
        avatar: Avatar,
        *,
        size: int,
        full_frame: bool = False,
        seed: int = 0,
        steps: int,
        controls: Controls,
    ):
        self.backend, self.portrait, self.controls = backend, portrait, controls
        config = backend.config
        self.carried = config.motion_frames or OVERLAP
        self.look_ahead = config.audio_look_ahead
        self.context_samples = backend.hear.context_samples
        self.sampler = make_sampler(backend.sampler_name, config.schedule, steps)
        self._schedule = NoiseSchedule(config.schedule)
        self._seed, self._pasted = seed, PastedCrop(avatar, size) if full_frame else None
        self.shape = self._pasted.shape if self._pasted else (size, size)
        self._latent_shape = tuple(portrait.code.shape[1:])
        self._streams: dict[int, WhiteNoise] = {}
        self._stream = torch.cuda.Stream(backend.device) if backend.device.type == "cuda" else None

    def first(self) -> list[Latent]:
        return [self.portrait.code[-1].float()] * self.backend.config.motion_frames

    def adjust(self, settings: LiveSettings) -> None:
        self.controls = settings.controls
        if settings.steps != len(self.sampler.timesteps):
            self.sampler = make_sampler(self.backend.sampler_name, self.backend.config.schedule, settings.steps)

    @torch.inference_mode()
    def latents(self, given: NextWindow) -> Tensor:
        """(length, 4, h, w) float32 on the device."""
        backend, config = self.backend, self.backend.config
        before: list[Tensor] = list(given.motion)
        known = torch.stack(before) if before and not config.motion_frames else None
        frames, rows = given.length + (0 if known is None else len(known)), len(self.portrait.code)
        start = given.index + given.length - frames
        heard = given.sound[
            -min(len(given.sound), (given.index + given.length + self.look_ahead) * MODEL_STEP_SAMPLES) :
        ]
        with memory_hint():
            audio = backend.audio_tokens(heard, frames, rows)
            motion = backend.motion_bank(torch.stack(before), self.portrait) if config.motion_frames else None
            speed = backend.speed(self.controls.speed, frames, rows)
            strengths = backend.strengths(self.controls.motion)
            x = noise = self._noise(0, start, frames)
            waits = _OneStepAhead(backend.device)
            for i, timestep in enumerate(self.sampler.timesteps):
                given.check()
                if known is not None:
                    times = torch.full((len(known),), timestep, device=backend.device)
                    x = torch.cat([self._schedule.add_noise(known, noise[: len(known)], times), x[len(known) :]])
                v = backend.velocity(x, timestep, self.portrait, motion, audio, speed, strengths)
                x = self.sampler.step(i, x, v, self._drawing(i + 1, start, frames))
                waits()
            new = x[-given.length :]
            if not bool(torch.isfinite(new).all()):
                raise EngineError("the model gave latents that are not numbers: try dtype bfloat16 or float32")
        return new

    def _drawing(self, step: int, start: int, frames: int) -> Callable[[], Tensor]:
        return lambda: self._noise(step, start, frames)

    def _noise(self, step: int, start: int, frames: int) -> Tensor:
        """(frames, 4, h, w) white noise of a step; the first step's is what latents begin as."""
        if step not in self._streams:
            width = int(np.prod(self._latent_shape))
            self._streams[step] = WhiteNoise(self._seed, _FIRST_STREAM + step, width, HISTORY)
        drawn = self._streams[step].frames(start, start + frames).reshape(frames, *self._latent_shape)
        if step == 0 and not self.backend.config.motion_frames:
            drawn = drawn.clip(-ECHOMIMIC_NOISE, ECHOMIMIC_NOISE)
        return torch.from_numpy(drawn).to(self.backend.device)

    def pictures(self, latents: Tensor) -> PicturesTaken:
        """On CUDA they are decoded and fetched beside whatever comes next."""
        if self._stream is None:
            with memory_hint():
                made = self._finished(self.backend.decode(latents).numpy())
            return lambda: made
        return self._beside(latents, self._stream)

    def _beside(self, latents: Tensor, stream: torch.cuda.Stream) -> PicturesTaken:
        stream.wait_stream(torch.cuda.current_stream(self.backend.device))
        with torch.cuda.stream(stream), memory_hint():
            latents.record_stream(stream)
            decoded = self.backend.decode(latents)
            fetched = torch.empty(decoded.shape, dtype=torch.uint8, pin_memory=True)
            fetched.copy_(decoded, non_blocking=True)
            done = torch.cuda.Event()
            done.record(stream)

        def take() -> list[UInt8]:
            done.synchronize()
            return self._finished(fetched.numpy())

        return take

    def _finished(self, pictures: UInt8) -> list[UInt8]:
        return [self._pasted.draw(picture) if self._pasted else picture.copy() for picture in pictures]


class _OneStepAhead:
    """Lets the CPU be at most one denoising step ahead of a GPU, so that a cancelled window ends soon."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last: Any = None

    def __call__(self) -> None:
        if self._cuda:
            if self._last is not None:
                self._last.synchronize()
            self._last = torch.cuda.Event()
            self._last.record()


def offline_policy(backend: LatentBackend) -> WindowPolicy:
    """On CUDA a window's pictures are decoded beside the next one."""
    return WindowPolicy((backend.window_frames,), beside=1 if backend.device.type == "cuda" else 0)


def warm_up(backend: LatentBackend, lengths: tuple[int, ...], size: int, steps: int) -> float:
    """Runs every kind of window once (on a CPU, where nothing is compiled, the short one alone), so that kernels are
    chosen and memory is there. Returns the seconds of the longest piece of work."""
    avatar = Avatar(
        np.full((512, 512, 3), 127, np.uint8),
        np.full((478, 2), 0.5, np.float32) + np.linspace(-0.2, 0.2, 478, dtype=np.float32)[:, None],
        np.full((512, 512, 3), 127, np.uint8),
        np.eye(2, 3),
    )
    laps = _Laps(backend)
    backend.checkpoint = laps
    generator = LatentGenerator(
        backend, backend.prepare(avatar, size), avatar, size=size, steps=min(steps, 2), controls=Controls()
    )
    silence = np.zeros(generator.context_samples, np.float32)
    run = lengths if backend.device.type == "cuda" else lengths[:1]
    for _ in range(2 if backend.device.type == "cuda" else 1):  # the second time is what it takes
        laps.longest_s = 0.0
        for length in run:
            before = generator.first()
            for index in (0, length):  # the second one has frames before it in every size
                latents = generator.latents(NextWindow(index, length, before, silence, lambda: None))
                before = list(latents[-generator.carried :])
                generator.pictures(latents)()
    laps()
    return laps.longest_s * lengths[-1] / run[-1]


class _Laps:
    """A checkpoint that measures the longest time between two."""

    def __init__(self, backend: LatentBackend) -> None:
        self._cuda, self._last = backend.device.type == "cuda", time.perf_counter()
        self.longest_s = 0.0

    def __call__(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.longest_s, self._last = max(self.longest_s, now - self._last), now
