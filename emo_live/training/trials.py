"""What a model is tried on: held-out portraits, speech that nothing was trained on, the motion that belongs to it.

The same pack gives the same trials, always. Knows nothing of videos or judges. Clips of a voice are joined to 8 s or
more; in the pauses and after the end lips rest, eyes, brows and head live on. Motion is at 25 fps, sound at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from emo_live.errors import BadInputError
from emo_live.training.augment import noise, rms
from emo_live.training.pack import Clip, Pack
from emo_live.training.performance import REST_FRAMES, Performance, lip_columns, talker_motion, unvoiced
from emo_live.types import FPS, MODEL_RATE_HZ, MODEL_STEP_SAMPLES, Float32

LEAST_S = 8.0  # blinks are counted from 8 s on
PAUSE_S, LONG_PAUSE_S, TAIL_S = 0.4, 1.4, 1.0  # the last two are long enough to see lips rest
SNR_DB = 10.0
FADE_SAMPLES = 160
NOISY_EACH = 4  # every so manieth trial has a noisy twin
# Beginnings of voices, and how many trials each gets.
PLAN: tuple[tuple[tuple[str, ...], int], ...] = (
    (("flite_rms",), 6),
    (("kokoro_af_nova",), 3),
    (("kokoro_bm_daniel",), 3),
    (("kokoro_zm",), 2),
    (("grid_u", "grid_s1"), 3),
    (("hibari",), 3),
    (("festival", "rhvoice", "flite_slt"), 2),
)
LONG = "long"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trial:
    """A portrait and what it says. noise: "", "pink" or "babble". text: the words, empty if unknown or not English."""

    number: int
    name: str
    portrait: str
    clips: tuple[str, ...]
    kind: str
    noise: str = ""
    text: str = ""
    pause_s: float = PAUSE_S

    @property
    def clean(self) -> Trial:
        """The same without noise."""
        return replace(self, name=self.name.removesuffix(f"-{self.noise}"), noise="") if self.noise else self


def trials(pack: Pack) -> list[Trial]:
    """The fixed trials of a pack: clean ones by PLAN, then noisy twins of some."""
    portraits = pack.portraits("val")
    if not portraits:
        raise BadInputError(f"{pack.folder} has no portraits of the split val: nothing to evaluate with")
    order = np.random.default_rng(11).permutation(len(portraits))
    clean: list[Trial] = []
    for voices, count in PLAN:
        for clips in _joined_clips(pack, voices, count):
            number = len(clean)
            portrait = portraits[order[number % len(order)]]
            pause_s = LONG_PAUSE_S if number % 3 == 1 else PAUSE_S
            clean.append(_trial(number, portrait, clips, pause_s))
    if not clean:
        raise BadInputError(f"{pack.folder} has no speech of the split val: nothing to evaluate with")
    twins = []
    for k, trial in enumerate(clean[1::NOISY_EACH]):
        kind = ("babble", "pink")[k % 2]
        number = len(clean) + k
        twins.append(replace(trial, number=number, name=f"{trial.name}-{kind}", noise=kind, kind="noisy"))
    return clean + twins


def spread(every: Sequence[T], count: int | None) -> list[T]:
    """`count` of them, evenly over the list; None: all."""
    if count is None or count >= len(every):
        return list(every)
    return [every[i] for i in np.linspace(0, len(every) - 1, count).round().astype(int)]


def long_trial(pack: Pack, seconds: float) -> Trial:
    """One portrait that speaks for so long: held-out clips of all voices by turns, again from the start if need be."""
    clips = [clip for voices, _ in PLAN for clip in _pool(pack, voices)]
    chosen: list[Clip] = []
    while _length_s(chosen) < seconds:
        chosen.append(clips[len(chosen) % len(clips)])
    return replace(_trial(0, pack.portraits("val")[0], chosen, PAUSE_S), name=LONG, kind=LONG, text="")


def _trial(number: int, portrait: str, clips: list[Clip], pause_s: float) -> Trial:
    voice = clips[0].voice
    english = all(clip.language == "en" and clip.text for clip in clips)
    kind = "english" if clips[0].synthetic else "real"
    if clips[0].language not in ("", "en"):
        kind = "chinese" if clips[0].language == "zh" else "other language"
    text = " ".join(clip.text for clip in clips) if english else ""
    names = tuple(clip.name for clip in clips)
    return Trial(number, f"{number:02d}-{voice}-{portrait}", portrait, names, kind, "", text, pause_s)


def _pool(pack: Pack, voices: tuple[str, ...]) -> list[Clip]:
    """Held-out clips of these voices in a fixed random order, those of the first voice first."""
    clips = pack.clips("val")
    out: list[Clip] = []
    for k, beginning in enumerate(voices):
        own = [clip for clip in clips if clip.voice.startswith(beginning)]
        out += [own[i] for i in np.random.default_rng([5, k]).permutation(len(own))]
    return out


def _joined_clips(pack: Pack, voices: tuple[str, ...], count: int) -> list[list[Clip]]:
    """`count` groups of clips with LEAST_S of speech each. Scarce clips come again, in the opposite order."""
    pool = _pool(pack, voices)
    groups: list[list[Clip]] = []
    queue: list[Clip] = []
    while pool and len(groups) < count:
        group: list[Clip] = []
        while _length_s(group) < LEAST_S:
            if not queue:
                queue, pool = list(pool), pool[::-1]
            group.append(queue.pop(0))
        groups.append(group)
    return groups


def _length_s(clips: list[Clip]) -> float:
    return sum(clip.seconds + PAUSE_S for clip in clips)


def act(pack: Pack, trial: Trial) -> Performance:
    """The sound of a trial and its true motion."""
    parts = [_part(pack, clip) for clip in trial.clips]
    lips = lip_columns(pack.arkit_names)
    pause, tail = round(trial.pause_s * FPS), round(TAIL_S * FPS)
    pcm, arkit, pose = parts[0]
    for next_pcm, next_arkit, next_pose in parts[1:]:
        between = bridge(arkit, next_arkit, pause), bridge(pose, next_pose, pause)
        between[0][:, lips] = _resting(arkit[-1, lips], next_arkit[0, lips], pause)
        pcm = np.concatenate([pcm, np.zeros(pause * MODEL_STEP_SAMPLES, np.float32), next_pcm])
        arkit = np.concatenate([arkit, between[0], next_arkit])
        pose = np.concatenate([pose, between[1], next_pose])
    ending = _mirrored(arkit, tail)
    ending[:, lips] = _resting(arkit[-1, lips], np.zeros(lips.sum(), np.float32), tail)
    arkit, pose = np.concatenate([arkit, ending]), np.concatenate([pose, _mirrored(pose, tail)])
    pcm = np.concatenate([pcm, np.zeros(tail * MODEL_STEP_SAMPLES, np.float32)])
    silent = unvoiced(pcm, len(arkit))
    if trial.noise:
        pcm = noisy(pcm, trial.noise, _babblers(pack, trial), np.random.default_rng(trial.number))
    return Performance(trial.name, pcm, arkit.astype(np.float32), pose.astype(np.float32), silent)


def _part(pack: Pack, clip: str) -> tuple[Float32, Float32, Float32]:
    """A clip's sound (640 T,), faded at both ends, weights (T, 52) and pose (T, 6)."""
    arkit, pose = talker_motion(pack, clip)
    pcm = pack.speech(clip)
    frames = min(len(arkit), len(pcm) // MODEL_STEP_SAMPLES)
    pcm = pcm[: frames * MODEL_STEP_SAMPLES].copy()
    ramp = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)
    pcm[:FADE_SAMPLES] *= ramp
    pcm[-FADE_SAMPLES:] *= ramp[::-1]
    return pcm, arkit[:frames], pose[:frames]


def _mirrored(motion: Float32, frames: int) -> Float32:
    """(T, N) -> (frames, N): motion played backwards from its end, so that it neither stops nor jumps."""
    return np.pad(motion, ((0, frames), (0, 0)), mode="reflect")[len(motion) :]


def bridge(before: Float32, after: Float32, frames: int) -> Float32:
    """(T, N), (U, N) -> (frames, N): from one to the other, both going on as they were."""
    share = (np.arange(1, frames + 1, dtype=np.float32) / (frames + 1))[:, None]
    share = share * share * (3 - 2 * share)
    joined = (1 - share) * _mirrored(before, frames) + share * _mirrored(after[::-1], frames)[::-1]
    return joined.astype(np.float32)


def _resting(first: Float32, last: Float32, frames: int) -> Float32:
    """(frames, N): lips come to rest from `first` (N,) within REST_FRAMES and leave it for `last` (N,) as late."""
    away = np.clip(1 - np.arange(1, frames + 1, dtype=np.float32) / REST_FRAMES, 0, 1)[:, None]
    return np.asarray(first * away + last * away[::-1], np.float32)


def _babblers(pack: Pack, trial: Trial) -> list[Float32]:
    """Speech of four other clips, of other voices where there are some."""
    own = {clip.voice for clip in pack.clips("val") if clip.name in trial.clips}
    others = [clip.name for clip in pack.clips("val") if clip.voice not in own] or list(trial.clips)
    chosen = np.random.default_rng([7, trial.number]).choice(len(others), 4)
    return [pack.speech(others[i]) for i in chosen]


def noisy(pcm: Float32, kind: str, others: list[Float32], random: np.random.Generator) -> Float32:
    """Sound with pink noise or babble over all of it, SNR_DB below the speech, at a peak of at most 0.99."""
    if kind == "pink":
        disturbance = noise(len(pcm), 1.0, random)
    else:
        parts = [np.resize(other / rms(other), len(pcm) + MODEL_RATE_HZ) for other in others]
        starts = random.integers(MODEL_RATE_HZ, size=len(parts))
        disturbance = np.sum([part[s : s + len(pcm)] for part, s in zip(parts, starts, strict=True)], 0)
    speaking = pcm[np.abs(pcm) > 0]
    mixed = pcm + disturbance * (rms(speaking) / rms(disturbance) * 10 ** (-SNR_DB / 20))
    return (mixed * min(1.0, 0.99 / float(np.abs(mixed).max()))).astype(np.float32)
