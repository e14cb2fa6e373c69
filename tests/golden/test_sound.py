"""Sound features against the official pipelines: wav2vec2 of Hallo and Hallo2, whisper of EchoMimic, live and whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_live.models.checkpoints.hallo_sound import (
    frame_windows_clamped,
    offline_features,
    padded,
    segment_features,
)
from emo_live.models.emo import frame_windows
from emo_live.models.latent_emo import LatentEmo
from emo_live.models.wav2vec import Wav2Vec, Wav2VecFeatures, normalised
from emo_live.models.whisper_sound import WhisperFeatures, WhisperSound
from emo_live.types import Float32

Golden = Callable[[str], dict[str, Tensor]]
CLIP, AROUND = 4, 2


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def pcm_of(numbers: dict[str, Tensor], name: str = "pcm16") -> Float32:
    return (numbers[name].float() / 32768).numpy()


@pytest.fixture(scope="module")
def numbers(golden: Golden) -> dict[str, Tensor]:
    return golden("hallo/audio_wav2vec")


def test_normalised_over_the_recording_and_then_padded_by_whole_frames(numbers: dict[str, Tensor]) -> None:
    """12253 samples for 20 frames, not 12800: the last of 17 frames stays begun."""
    samples, frames = padded(pcm_of(numbers), CLIP)
    assert frames == 20 and len(samples) == 12253 == numbers["input_values"].shape[1]
    close(samples, numbers["input_values"][0], 1e-6)
    samples, frames = padded(pcm_of(numbers), None)
    assert frames == int(numbers["audio_length"]) == 17
    close(samples, numbers["nopad.input_values"][0], 1e-6)


def test_wav2vec(numbers: dict[str, Tensor], wav2vec: Wav2Vec) -> None:
    """Convolutions, interpolation between its ends, and the states of layers 1 to 4 without the first one's input."""
    samples, _ = padded(pcm_of(numbers), CLIP)
    convolved = wav2vec.convolved(samples)
    close(convolved, numbers["conv_features"][0], 1e-4)
    features = offline_features(wav2vec, pcm_of(numbers), CLIP)
    close(features, numbers["audio_emb"], 1e-4)
    close(offline_features(wav2vec, pcm_of(numbers)), numbers["nopad.audio_emb"], 1e-4)
    close(frame_windows_clamped(features), numbers["audio_windows"], 1e-4)


def test_other_ways_are_far_off(numbers: dict[str, Tensor], wav2vec: Wav2Vec) -> None:
    """What the tolerance would notice: padding before normalising, and padding up to 640 samples a frame."""
    pcm = pcm_of(numbers)
    first_padded = normalised(torch.from_numpy(np.pad(pcm, (0, 12253 - len(pcm)))))
    assert (wav2vec.states(first_padded, 20) - numbers["audio_emb"]).abs().max() > 0.01
    rounded = torch.nn.functional.pad(padded(pcm, CLIP)[0], (0, 12800 - 12253))
    assert (wav2vec.states(rounded, 20) - numbers["audio_emb"]).abs().max() > 0.01


def test_tokens_of_clips(numbers: dict[str, Tensor], wav2vec: Wav2Vec, hallo: LatentEmo) -> None:
    windows = frame_windows_clamped(offline_features(wav2vec, pcm_of(numbers), CLIP))
    close(hallo.audioproj(windows[None, :CLIP]), numbers["audio_tokens_clip0"], 1e-4)
    close(hallo.audioproj(windows[None, -CLIP:]), numbers["audio_tokens_clip_last"], 1e-4)


def test_segments_of_hallo2(golden: Golden, wav2vec: Wav2Vec) -> None:
    """Normalised and heard one by one; only the last is padded; windows reach across the border."""
    numbers = golden("hallo/hallo2_extras")
    pcm = [pcm_of(numbers, f"cut.pcm16.{i}") for i in (0, 1)]
    features = segment_features(wav2vec, pcm, CLIP)
    for i in (0, 1):
        close(features[i], numbers[f"cut.audio_emb.{i}"], 1e-4)
    close(frame_windows_clamped(torch.cat(features)), numbers["cut.audio_windows"], 1e-4)
    whole = offline_features(wav2vec, np.concatenate(pcm), CLIP)
    assert (whole - torch.cat(features)).abs().max() > 0.01, "segments should not hear each other"


def test_segments_that_fill_clips_are_not_padded() -> None:
    """Unless what came before leaves a clip open: then nothing is padded either, and its frames are dropped."""
    second = np.ones(4 * 640, np.float32)
    assert padded(second, CLIP, before=10)[1] == 4
    assert padded(second[:-1], CLIP, before=10)[1] == 4  # 4 frames, the last one begun
    assert padded(second[: 3 * 640], CLIP, before=10)[1] == 6  # 13 frames so far, 16 wanted


def test_live_sound_that_is_the_whole_recording(numbers: dict[str, Tensor], wav2vec: Wav2Vec) -> None:
    """16 whole frames: nothing is padded or stretched, so live features are the offline ones, windows included."""
    pcm = pcm_of(numbers)[: 16 * 640]
    theirs = frame_windows_clamped(offline_features(wav2vec, pcm))
    hear = Wav2VecFeatures(wav2vec)
    close(frame_windows(hear(pcm, 16 + AROUND)[None], 4, AROUND)[0], theirs[:-AROUND], 1e-6)


def test_whisper(golden: Golden, whisper: WhisperSound) -> None:
    numbers = golden("echomimic/audio_whisper")
    samples = torch.from_numpy(pcm_of(numbers))
    close(whisper.log_mel(samples), numbers["log_mel"], 1e-4)
    close(whisper.states(samples), numbers["feature"], 1e-4)


def test_whisper_levels_end_eight_decades_below_the_loudest(golden: Golden, whisper: WhisperSound) -> None:
    """Over the whole recording: what comes later lifts the floor of what was before."""
    quiet = torch.from_numpy(pcm_of(golden("echomimic/audio_whisper"))) * 1e-3
    quiet[:8000] = 0
    loud = torch.cat([quiet, 1000 * quiet])
    floor = [float(whisper.log_mel(x)[:, :40].max()) for x in (quiet, loud)]
    assert floor[1] > floor[0] + 0.5


def test_whisper_of_more_than_thirty_seconds(whisper: WhisperSound) -> None:
    """One encoding for each 30 s, as upstream: their log-mel floor is common, their states are not."""
    noise = torch.randn(16_000 * 40, generator=torch.Generator().manual_seed(0)) * 0.1
    states = whisper.states(noise)
    assert states.shape == (2000, 5, 32)
    mel = torch.nn.functional.pad(whisper.log_mel(noise)[:, 3000:], (0, 2000))
    close(states[1500:], torch.stack(whisper.encoder.states(mel[None]), 2)[0, :500], 1e-5)


def chunk_indices(features: int, fps: int) -> Tensor:
    """Which of the 50 features a second a picture of EchoMimic reads: ten from 4 before its begin, clamped."""
    starts = [int(i * 50 / fps) for i in range(2 * features)]
    chunks = 1 + next(i for i, start in enumerate(starts) if start > features)  # some beyond the end
    return (torch.tensor(starts[:chunks])[:, None] - 4 + torch.arange(10)).clamp(0, features - 1)


@pytest.mark.parametrize("fps", [24, 25, 30])
def test_chunks_of_echomimic(golden: Golden, fps: int) -> None:
    numbers = golden("echomimic/audio_whisper")
    assert torch.equal(chunk_indices(len(numbers["feature"]), fps), numbers[f"selected_idx.fps{fps}"])


def test_tokens_of_echomimic_at_our_rate(golden: Golden, whisper: WhisperSound, echomimic: LatentEmo) -> None:
    """Live windows of 25 frames a second read what upstream's would, in the same order."""
    numbers = golden("echomimic/audio_whisper")
    features, frames = numbers["feature"], 20
    theirs = features[numbers["selected_idx.fps25"][:frames]].flatten(1, 2)
    hear = WhisperFeatures(whisper)
    pcm = pcm_of(numbers)[: 33 * 640]
    rows = hear(pcm, 33 + AROUND)[: (frames + 2 * AROUND) * 10]
    ours = echomimic.audio_tokens(rows[None])[0]
    assert ours.shape == theirs.shape == (frames, 50, 32)
    rows_of_whole = whisper.states(torch.from_numpy(pcm))[numbers["selected_idx.fps25"][:frames]].flatten(1, 2)
    close(ours, rows_of_whole, 1e-6)
    assert (ours - theirs)[: frames - 8].abs().max() < 0.3, "157 samples less should not matter much to whisper"
