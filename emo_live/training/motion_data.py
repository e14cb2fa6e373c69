"""Windows of motion latents with the sound features, velocities and portraits that go with them.

Reads track shards (`emo_live.training.puppets tracks`): latents, sound, pose. Sound features are computed exactly as the
live session computes them: whisper on a bounded context that ends `audio_look_ahead` frames after the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emo_live.audio.features import CONTEXT_SAMPLES, LEFT_SAMPLES, TOKENS_PER_STEP, log_mel
from emo_live.config import TINY
from emo_live.models.audio import WhisperEncoder
from emo_live.training.augment import augment
from emo_live.engine.locator_mask import locator_mask
from emo_live.training.run import autocast
from emo_live.types import FPS, MODEL_STEP_SAMPLES, Float32

LONGEST = 8  # frames of the longest window
STRIDE = 2  # windows start and end at multiples of this
AHEAD = TINY.emo.audio_look_ahead
BEFORE = TINY.emo.audio_projection.frames // 2
KEPT = (LONGEST + BEFORE + AHEAD) * TOKENS_PER_STEP  # tokens kept of every context
VELOCITY_SPAN = 25  # frames over which the head's speed is averaged


@dataclass
class Track:
    z: np.ndarray  # (T, C, h, w) float16
    features: list[np.ndarray]  # per sound variant: (T / STRIDE + 1, KEPT, D) float16
    velocity: np.ndarray  # (T,) float32 degrees a second
    arkit: np.ndarray  # (T, 52) float32
    portrait: int
    silent: np.ndarray  # (T,) bool


def head_velocity(pose: np.ndarray) -> np.ndarray:
    """(T, 6) yaw, pitch, roll in radians first -> (T,) degrees a second, averaged over about a second."""
    step = np.linalg.norm(np.diff(pose[:, :3], axis=0, prepend=pose[:1, :3]), axis=1) * 180 / np.pi * FPS
    kernel = np.ones(VELOCITY_SPAN) / VELOCITY_SPAN
    padded = np.pad(step, VELOCITY_SPAN // 2, mode="edge")
    return np.convolve(padded, kernel, "valid").astype(np.float32)


def contexts(pcm: Float32) -> Float32:
    """Every context that a window of this sound can end with: (T / STRIDE + 1, LEFT_SAMPLES + CONTEXT_SAMPLES)."""
    size, step = LEFT_SAMPLES + CONTEXT_SAMPLES, STRIDE * MODEL_STEP_SAMPLES
    padded = np.concatenate([np.zeros(size, np.float32), pcm, np.zeros(AHEAD * MODEL_STEP_SAMPLES, np.float32)])
    view = np.lib.stride_tricks.sliding_window_view(padded, size)
    return view[AHEAD * MODEL_STEP_SAMPLES :: step][: len(pcm) // step + 1]


@torch.no_grad()
def sound_features(whisper: WhisperEncoder, pcm: Float32) -> np.ndarray:
    """(T * 640,) -> (T / STRIDE + 1, KEPT, D): row e holds the last tokens before frame e * STRIDE + AHEAD."""
    rows = []
    with autocast(torch.device("cpu")):
        for part in np.array_split(contexts(pcm), 4):
            rows.append(whisper(torch.from_numpy(log_mel(part)))[:, -KEPT:].float())
    return torch.cat(rows).half().numpy()


def prepare_sound(
    folder: Path, whisper: WhisperEncoder, *, variants: int, seed: int, share: tuple[int, int] = (0, 1)
) -> None:
    """Writes NAME.sound.npy (K, variants, T / STRIDE + 1, KEPT, D) beside every shard that lacks it; variant 0 is clean.

    share: (worker, workers), for several processes side by side.
    """
    others: list[Float32] = []
    for number, path in enumerate(sorted(folder.glob("*.npz"))):
        target = path.with_suffix(".sound.npy")
        if number % share[1] != share[0] or target.exists():
            continue
        random = np.random.default_rng(seed + number)
        rows = []
        for pcm in np.load(path)["pcm"].astype(np.float32) / 32768:
            others = [*others[-7:], pcm]
            sounds = [pcm] + [
                augment(pcm, [others[i] for i in random.integers(len(others), size=2)], random)
                for _ in range(variants - 1)
            ]
            rows.append([sound_features(whisper, s) for s in sounds])
        np.save(target.with_suffix(".part.npy"), np.array(rows))
        target.with_suffix(".part.npy").replace(target)


class MotionData:
    """All tracks of a split in memory; portraits are shared by the tracks that use them."""

    def __init__(self, folder: Path, split: str, points: dict[str, np.ndarray], *, limit: int | None = None):
        self.tracks: list[Track] = []
        self.portraits: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []
        for path in sorted(folder.glob("*.npz"))[:limit]:
            data = np.load(path)
            if str(data["split"]) != split or not path.with_suffix(".sound.npy").exists():
                continue
            sound = np.load(path.with_suffix(".sound.npy"), mmap_mode="r")
            for k in range(len(data["z"])):
                scale, left, top = data["jit"][k]
                outline = (points[path.name.split(".")[0]] - (left, top)) * scale
                self.portraits.append(data["reference"][k])
                self.masks.append(locator_mask(outline, TINY.mask_size))
                self.tracks.append(
                    Track(
                        data["z"][k],
                        list(sound[k]),
                        head_velocity(data["pose"][k]),
                        data["arkit"][k],
                        len(self.portraits) - 1,
                        data["silent"][k],
                    )
                )
        assert self.tracks, f"no tracks of split {split} in {folder}: render them with `emo-live train puppets`"

    def window(self, track: Track, start: int, frames: int, variant: int) -> dict[str, Tensor]:
        """Frames start .. start + frames of a track with everything that they are generated from."""
        n = TINY.emo.motion_frames
        row = track.features[variant][(start + frames) // STRIDE]
        used = (frames + BEFORE + AHEAD) * TOKENS_PER_STEP
        around = np.clip(np.arange(start - BEFORE, start + frames + BEFORE), 0, len(track.velocity) - 1)
        before = np.zeros((n, *track.z.shape[1:]), np.float32)
        if start >= n:
            before = track.z[start - n : start].astype(np.float32)
        return {
            "z": torch.from_numpy(track.z[start : start + frames].astype(np.float32)),
            "motion": torch.from_numpy(before),
            "features": torch.from_numpy(row[-used:].astype(np.float32)),
            "velocity": torch.from_numpy(track.velocity[around]),
            "arkit": torch.from_numpy(track.arkit[start : start + frames]),
            **self.portrait(track.portrait),
        }

    def portrait(self, index: int) -> dict[str, Tensor]:
        picture = torch.from_numpy(np.ascontiguousarray(self.portraits[index])).permute(2, 0, 1).float() / 127.5 - 1
        return {"portrait": picture, "mask": torch.from_numpy(self.masks[index])}

    def batches(self, size: int, frames: tuple[int, ...], seed: int, ahead: int = 0) -> Iterator[dict[str, Tensor]]:
        """Random windows; `ahead` further windows follow each one (lists under "next"), for training on own output."""
        random = np.random.default_rng(seed)
        while True:
            length = int(random.choice(frames))
            rows = []
            for k in random.integers(len(self.tracks), size=size):
                track = self.tracks[k]
                last = len(track.z) - length * (ahead + 1)
                start = 0 if random.random() < 0.04 else int(random.integers(1, last // STRIDE + 1)) * STRIDE
                variant = int(random.integers(len(track.features)))
                colour, shift = random.uniform(0.75, 1.25), random.uniform(-0.12, 0.12)
                for j in range(ahead + 1):
                    row = self.window(track, start + j * length, length, variant)
                    row["portrait"] = (row["portrait"] * colour + shift).clamp(-1, 1)
                    rows.append(row)
            stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            yield {name: value.unflatten(0, (size, ahead + 1)) for name, value in stacked.items()}


def whisper_encoder(checkpoint: Path) -> WhisperEncoder:
    """The truncated encoder with the weights of a published whisper-tiny.en file."""
    encoder = WhisperEncoder(TINY.whisper).eval()
    encoder.load_published(torch.load(checkpoint, map_location="cpu", weights_only=True)["model_state_dict"])
    return encoder.requires_grad_(False)
