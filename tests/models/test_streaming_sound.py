"""Live sound features: what goes in comes out in the right place, whatever the sound, and nothing is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mini_checkpoint import MINI_CONFIGS, write_wav2vec, write_whisper  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sound_drift import compared, speech, table  # noqa: E402

from emo_live.config import EmoConfig  # noqa: E402
from emo_live.errors import BadInputError  # noqa: E402
from emo_live.models.checkpoints.hallo_sound import offline_features  # noqa: E402
from emo_live.models.wav2vec import CONTEXT_S, SoundFeatures, Wav2Vec, Wav2VecFeatures, streaming_features  # noqa: E402
from emo_live.samples import greeting  # noqa: E402
from emo_live.types import Float32  # noqa: E402

CPU = torch.device("cpu")
KINDS = ("hallo", "echomimic")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    write_wav2vec(root / "hallo")
    write_whisper(root / "echomimic")
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def hearing(folders: dict[str, Path]) -> dict[str, SoundFeatures]:
    return {kind: streaming_features(folders[kind], MINI_CONFIGS[kind], CPU, torch.float32) for kind in KINDS}


@pytest.fixture(scope="module")
def pcm() -> Float32:
    return speech(greeting())


def blocks(kind: str) -> int:
    return MINI_CONFIGS[kind].audio_projection.blocks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [0, 1, 300, 640, 1000, 16_000])
def test_silence_and_very_short_sound(hearing: dict[str, SoundFeatures], kind: str, samples: int) -> None:
    hear, noise = hearing[kind], np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    for sound in (noise, np.zeros(samples, np.float32)):
        sound.flags.writeable = False  # as out of shared memory
        rows = hear(sound, 12)
        assert rows.shape == (12 * blocks(kind), 32) and rows.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_frames_oldest_first(hearing: dict[str, SoundFeatures], kind: str, pcm: Float32) -> None:
    """Fewer frames are the end of more frames; those before the first are its first state."""
    hear, sound = hearing[kind], pcm[16_000 : 16_000 + 20 * 640]
    rows = hear(sound, 20)
    assert torch.equal(hear(sound, 6), rows[-6 * blocks(kind) :])
    longer = hear(sound, 23)
    assert torch.equal(longer[3 * blocks(kind) :], rows)
    first = rows[: blocks(kind) // (2 if kind == "echomimic" else 1)]  # whisper has two states a frame
    assert torch.equal(longer[: 3 * blocks(kind)], first.repeat(3 * blocks(kind) // len(first), 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_hangs_on_the_newest_sample(hearing: dict[str, SoundFeatures], kind: str, pcm: Float32) -> None:
    """Half a frame at the old end is not enough for one: it is left out."""
    hear, end = hearing[kind], 32_000
    assert torch.equal(hear(pcm[end - 20 * 640 : end], 8), hear(pcm[end - 20 * 640 - 300 : end], 8))


def test_silence_before_speech_does_not_count(hearing: dict[str, SoundFeatures], pcm: Float32) -> None:
    """A session that waited in silence hears as a recording that begins with the speech; silent frames stay silent."""
    hear, said = hearing["hallo"], pcm[16_000 : 16_000 + 30 * 640]
    waited = np.concatenate([np.zeros(80 * 640, np.float32), said])
    assert torch.equal(hear(waited, 12), hear(said, 12))
    beginning = waited[: 84 * 640]  # four frames of speech, eight of silence before them
    rows = hear(beginning, 12)
    assert torch.equal(rows, hear(beginning[-12 * 640 :], 12))
    assert not torch.equal(rows[: blocks("hallo")], rows[-4 * blocks("hallo") : -3 * blocks("hallo")])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_remembered(hearing: dict[str, SoundFeatures], kind: str, pcm: Float32) -> None:
    hear = hearing[kind]
    before = hear(pcm[:32_000], 12)
    hear(pcm[64_000:96_000], 12)
    assert torch.equal(hear(pcm[:32_000], 12), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_heard_where_it_is_said(hearing: dict[str, SoundFeatures], kind: str) -> None:
    """A click in one frame changes the features there most: nothing is shifted."""
    hear, frames = hearing[kind], 25
    quiet = np.random.default_rng(1).normal(0, 0.05, frames * 640).astype(np.float32)
    click = quiet.copy()
    click[15 * 640 + 100 : 15 * 640 + 400] += 0.2
    change = (hear(click, frames) - hear(quiet, frames)).unflatten(0, (frames, -1)).square().sum((1, 2))
    assert int(change.argmax()) in (15, 16)  # the end of frame 15's window lies in 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(
    folders: dict[str, Path], hearing: dict[str, SoundFeatures], kind: str, dtype: torch.dtype, pcm: Float32
) -> None:
    hear, sound = streaming_features(folders[kind], MINI_CONFIGS[kind], CPU, dtype), pcm[16_000:48_000]
    ours, theirs = hear(sound, 16), hearing[kind](sound, 16)
    assert ours.dtype == dtype
    found = compared(ours[:, None], theirs[:, None])
    assert float(found.error) < 0.03 and float(found.correlation) > 0.99


@pytest.mark.slow
def test_more_context_comes_nearer_to_the_whole_recording(
    folders: dict[str, Path], pcm: Float32, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints the table of docs/parity.md for the small wav2vec2 (-s shows it)."""
    wav2vec = Wav2Vec.load(folders["hallo"], CPU, torch.float32)
    recordings = [(pcm, offline_features(wav2vec, pcm))]
    found = table(lambda context_s: Wav2VecFeatures(wav2vec, context_s), recordings, windows=6)
    print(capsys.readouterr().out)
    worst = {context_s: float(drift.error.max()) for context_s, drift in found.items()}
    assert worst[1] > worst[3] > worst[8] > worst[12]
    assert worst[CONTEXT_S] < 0.3
    assert float(found[CONTEXT_S].correlation.min()) > 0.85


@pytest.mark.parametrize("old_names", [False, True])
def test_recognition_checkpoints_load(folders: dict[str, Path], tmp_path: Path, old_names: bool, pcm: Float32) -> None:
    """The published file has a head, a prefix, and older names for the weights of the position codes."""
    state = load_file(folders["hallo"] / "model.safetensors")
    renamed = {"original0": "weight_g", "original1": "weight_v"}
    published = {"lm_head.weight": torch.zeros(32, 32), "lm_head.bias": torch.zeros(32)}
    for name, value in state.items():
        start, _, last = name.rpartition(".")
        if old_names and last in renamed:
            name = f"{start.removesuffix('.parametrizations.weight')}.{renamed[last]}"
        published[f"wav2vec2.{name}"] = value
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads((folders["hallo"] / "config.json").read_text()) | {"architectures": ["Wav2Vec2ForCTC"]})
    )
    save_file(published, tmp_path / "model.safetensors", {"format": "pt"})
    ours, theirs = (Wav2Vec.load(folder, CPU, torch.float32) for folder in (tmp_path, folders["hallo"]))
    assert torch.equal(offline_features(ours, pcm[:16_000]), offline_features(theirs, pcm[:16_000]))


def test_loading_prints_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    Wav2Vec.load(folders["hallo"], CPU, torch.float32)
    assert capfd.readouterr() == ("", "")


def broken(folder: Path, name: str) -> None:
    state = load_file(folder / name)
    state.pop(next(key for key in state if key.endswith("conv1.weight") or "layers.1.attention.k_proj.weight" in key))
    save_file(state, folder / name, {"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
def test_bad_folders(tmp_path: Path, kind: str) -> None:
    write = {"hallo": write_wav2vec, "echomimic": write_whisper}[kind]
    name = {"hallo": "model.safetensors", "echomimic": "encoder.safetensors"}[kind]

    def complaint(folder: Path, config: EmoConfig = MINI_CONFIGS[kind]) -> str:
        with pytest.raises(BadInputError) as error:
            streaming_features(folder, config, CPU, torch.float32)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "cannot read" in complaint(tmp_path / "none")
    write(tmp_path / "cut")
    (tmp_path / "cut" / name).write_bytes((tmp_path / "cut" / name).read_bytes()[:2000])
    assert "cannot read" in complaint(tmp_path / "cut")
    write(tmp_path / "part")
    broken(tmp_path / "part", name)
    assert str(tmp_path / "part") in complaint(tmp_path / "part")
    write(tmp_path / "other")
    from emo_live.models.checkpoints.echomimic import ECHOMIMIC
    from emo_live.models.checkpoints.hallo import HALLO

    assert "belongs to it" in complaint(tmp_path / "other", {"hallo": HALLO, "echomimic": ECHOMIMIC}[kind])
