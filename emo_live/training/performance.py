"""What a puppet is given to do: sound with the motion that belongs to it, sample for sample.

Made from the pack's clips. Real talkers are brought to one scale; some performances get a pause, some are nothing but
quiet, so that lips learn to rest while eyes, brows and head go on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_cdt, gaussian_filter1d

from emo_live.training.pack import Clip, Pack
from emo_live.types import FPS, MODEL_STEP_SAMPLES, Float32

PAUSED, QUIET = "~paused", "~quiet"  # endings of the names of made performances
PAUSED_SHARE, QUIET_SHARE = 0.2, 0.06
REST_FRAMES = 4  # lips need so long to come to rest after speech and to leave it before
REAL_BLINK = 1.4  # the tracker sees lids of real talkers close to about 0.7
REAL_DELAY = 1  # frames that the tracker's motion of real talkers comes after their sound (25 to 40 ms measured)
HEAD_STD = 2.2  # degrees: still heads of real talkers are enlarged up to this ...
HEAD_BLUR = 2.0  # frames: ... and smoothed, or the tracker's trembling would be enlarged with them
REST_LEFT = 0.3  # of a real talker's resting smile, press and roll


@dataclass(frozen=True, slots=True)
class Performance:
    """pcm: (640 T,) float32; arkit: (T, 52); pose: (T, 6) radians and cm; silent: (T,) bool, nothing is said."""

    name: str
    pcm: Float32
    arkit: Float32
    pose: Float32
    silent: np.ndarray


def programme(clips: list[Clip]) -> list[str]:
    """Names of the performances that are made of these clips, in a fixed random order."""
    random = np.random.default_rng(2)
    names = [clip.name for clip in clips]
    made = [name + PAUSED for name in names if random.random() < PAUSED_SHARE]
    made += [name + QUIET for name in names if random.random() < QUIET_SHARE]
    every = names + made
    return [every[i] for i in random.permutation(len(every))]


def perform(pack: Pack, name: str) -> Performance:
    """The same performance for the same name, always."""
    clip = name.removesuffix(PAUSED).removesuffix(QUIET)
    arkit, pose = talker_motion(pack, clip)
    pcm = pack.speech(clip)
    frames = min(len(arkit), len(pcm) // MODEL_STEP_SAMPLES)
    arkit, pose, pcm = arkit[:frames], pose[:frames], pcm[: frames * MODEL_STEP_SAMPLES]
    random = np.random.default_rng(list(name.encode()))
    pose = pose * np.float32(random.uniform(0.7, 1.25))
    if name.endswith(PAUSED) and frames > 3 * FPS:
        pcm = with_pause(pcm, random)
    silent = np.full(frames, name.endswith(QUIET)) | unvoiced(pcm, frames)
    if name.endswith(QUIET):
        pcm = room_tone(len(pcm), random)
    return Performance(name, pcm, at_rest(arkit, silent, pack.arkit_names), pose, silent)


def talker_motion(pack: Pack, clip: str) -> tuple[Float32, Float32]:
    """A clip's weights (T, 52) and pose (T, 6) with real talkers on the scale of the made ones."""
    arkit, pose = pack.motion(clip)
    if not pack.is_real(clip):
        return arkit, pose
    heard = np.minimum(np.arange(len(arkit)) + REAL_DELAY, len(arkit) - 1)
    return one_scale(arkit[heard], pose[heard], pack.arkit_names)


def lip_columns(arkit_names: tuple[str, ...]) -> np.ndarray:
    """(52,) bool: the weights that speech moves."""
    return np.array([name.startswith(("jaw", "mouth")) for name in arkit_names])


def one_scale(arkit: Float32, pose: Float32, arkit_names: tuple[str, ...]) -> tuple[Float32, Float32]:
    """A real talker's weights without his resting face, blinks that close, a head that moves."""
    rest = np.median(arkit, axis=0)
    kept = np.zeros(len(arkit_names), np.float32)
    for i, name in enumerate(arkit_names):
        if name.startswith(("jaw", "mouthClose", "mouthLower", "mouthUpper", "mouthFunnel", "mouthPucker")):
            kept[i] = 1
        elif name.startswith("mouth"):
            kept[i] = REST_LEFT
    arkit = np.clip(arkit - rest * (1 - kept), 0, 1)
    pose = gaussian_filter1d(pose, HEAD_BLUR, axis=0)
    blink = np.array([REAL_BLINK if name.startswith("eyeBlink") else 1 for name in arkit_names], np.float32)
    moved = np.rad2deg(np.sqrt(np.square(pose[:, :3] - pose[:, :3].mean(0)).mean()))
    return np.minimum(arkit * blink, 1).astype(np.float32), pose * np.float32(np.clip(HEAD_STD / (moved + 0.2), 1, 4))


def with_pause(pcm: Float32, random: np.random.Generator) -> Float32:
    """Silence over a part of 0.8 to 2.4 s, with speech fading out and in within 20 ms."""
    frames = len(pcm) // MODEL_STEP_SAMPLES
    length = min(int(random.integers(20, 60)), frames - 20)
    start = int(random.integers(5, frames - length))
    loud = np.ones(len(pcm), np.float32)
    first, last = start * MODEL_STEP_SAMPLES, (start + length) * MODEL_STEP_SAMPLES
    fade = np.linspace(1, 0, MODEL_STEP_SAMPLES // 2, dtype=np.float32)
    loud[first:last] = 0
    loud[first : first + len(fade)] = fade
    loud[last - len(fade) : last] = fade[::-1]
    return pcm * loud


def at_rest(arkit: Float32, silent: np.ndarray, arkit_names: tuple[str, ...]) -> Float32:
    """(T, 52) with lips that come to rest within REST_FRAMES where nothing is said, and leave it as smoothly."""
    depth = np.minimum(distance_transform_cdt(np.pad(silent, 1, mode="edge"))[1:-1] / REST_FRAMES, 1)
    if silent.all():
        depth = np.ones(len(silent))
    speaking = 1 - depth * depth * (3 - 2 * depth)
    lips = lip_columns(arkit_names)
    return np.where(lips, arkit * speaking[:, None], arkit).astype(np.float32)


def room_tone(samples: int, random: np.random.Generator) -> Float32:
    """Digital silence, or the quiet noise of a room."""
    if random.random() < 0.4:
        return np.zeros(samples, np.float32)
    level = 10 ** random.uniform(-4.0, -2.2)
    white = random.normal(size=samples + 7)
    return (np.convolve(white, np.ones(8) / 8**0.5, "valid") * level).astype(np.float32)


def unvoiced(pcm: Float32, frames: int) -> np.ndarray:
    """(T,) bool: nothing is said in a frame and in the two around it."""
    power = np.square(pcm.reshape(frames, MODEL_STEP_SAMPLES)).mean(1)
    quiet = power < max(1e-6, 1e-4 * float(np.quantile(power, 0.95)))
    padded = np.pad(quiet, 2, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 5).all(1))
