"""The small real data of tests/data/training as the files that the stages read, and batches of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for extra in ("accelerate", "cv2", "scipy", "soundfile", "tensorboard"):
    pytest.importorskip(extra)

from mini_pack import write_pack  # noqa: E402
from PIL import Image  # noqa: E402

from emo_live.config import TINY  # noqa: E402
from emo_live.engine.motion_prior import MotionPrior  # noqa: E402
from emo_live.models.autoencoder import MotionBasis  # noqa: E402
from emo_live.models.hearing import Hearing  # noqa: E402
from emo_live.training import prior as fitting  # noqa: E402
from emo_live.training.basis import load_basis  # noqa: E402
from emo_live.training.frame_data import Shard, load_shards  # noqa: E402
from emo_live.training.motion_data import MotionData  # noqa: E402
from emo_live.training.pack import Pack  # noqa: E402
from emo_live.training.shards import save  # noqa: E402
from emo_live.types import Float32  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data" / "training"
PORTRAITS = ("faker_female_4", "faker_male_61")
SIDES = ("Left", "Right")
# The order of the data pack: the FaceLandmarker's.
ARKIT = (
    *("_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff"),
    *("cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight"),
    *(f"eyeLook{way}{side}" for way in ("Down", "In", "Out", "Up") for side in SIDES),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel"),
    *("mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft"),
    *("mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight"),
    *("noseSneerLeft", "noseSneerRight"),
)


def picture(name: str) -> np.ndarray:
    """(rows, W, 3)"""
    with Image.open(DATA / f"{name}.jpg") as file:
        return np.asarray(file.convert("RGB"))


def _write_frames(work: Path, name: str) -> None:
    with np.load(DATA / f"{name}_frames.npz") as file:
        arrays = dict(file)
    frames, mouth = picture(f"{name}_frames"), picture(f"{name}_mouth")
    arrays |= {"frames": frames.reshape(-1, 256, 256, 3), "mouth": mouth.reshape(-1, *[mouth.shape[1]] * 2, 3)}
    save(work / "frames" / f"{name}.npz", **arrays, portrait=picture(f"{name}_portrait"))


def _write_track(work: Path, name: str) -> None:
    with np.load(DATA / f"{name}_track.npz") as file:
        kept = {key: file[key] for key in ("pose", "arkit", "silent")}
        z, features = (file["z"] / 64).astype(np.float16), (file["sound"] / 16).astype(np.float16)
        title, outline = str(file["name"]), file["outline"]
    arrays = {f"{key}0": value for key, value in {"z": z, **kept}.items()}
    save(
        work / "tracks" / f"{name}.npz",
        names=np.array([title]),
        portrait=picture(f"{name}_small"),
        outline=outline,
        **arrays,
    )
    (work / "sound").mkdir(exist_ok=True)
    np.save(work / "sound" / f"{title}.npy", features[None])


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder of `emo-live train` with frames, tracks, sound and basis of two portraits."""
    folder = tmp_path_factory.mktemp("work")
    with np.load(DATA / "basis.npz") as file:
        torch.save({key: torch.from_numpy(value) for key, value in file.items()}, folder / "basis.pt")
    for name in PORTRAITS:
        _write_frames(folder, name)
        _write_track(folder, name)
    return folder


@pytest.fixture(scope="session")
def basis(work: Path) -> MotionBasis:
    return load_basis(work / "basis.pt")


@pytest.fixture(scope="session")
def shards(work: Path) -> list[Shard]:
    return load_shards(work / "frames", list(PORTRAITS))


@pytest.fixture(scope="session")
def data(work: Path, basis: MotionBasis) -> MotionData:
    return MotionData(work, list(PORTRAITS), basis, ARKIT)


@pytest.fixture(scope="session")
def hearing() -> Hearing:
    torch.manual_seed(0)
    ear = Hearing(TINY.emo.audio_projection).eval().requires_grad_(False)
    ear.shape_head.weight.mul_(0.05)  # untrained ears that hear hardly anything: lips near rest
    return ear


@pytest.fixture(scope="session")
def prior_file(work: Path, data: MotionData, basis: MotionBasis) -> tuple[Path, dict[str, float]]:
    """A prior of few components, for there is little data, and what the fit says of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "TINY", replace(TINY, components=24))
        patch.setattr(fitting, "EVERY", 2)
        patch.setattr(fitting, "SOME", 1)
        patch.setattr(fitting, "RIDGE", 0.3)  # or the few frames would be learnt by heart
        return work / "prior.npz", fitting.fit_prior(data, basis, work / "prior.npz")


@pytest.fixture(scope="session")
def prior(prior_file: tuple[Path, dict[str, float]]) -> MotionPrior:
    return MotionPrior.load(prior_file[0])


@pytest.fixture(scope="session")
def speech() -> tuple[Float32, ...]:
    """2.56 s of each of two voices: (40960,) float32 at 16 kHz."""
    tracks = (np.load(DATA / f"{name}_track.npz") for name in PORTRAITS)
    return tuple(track["pcm"].astype(np.float32) / 32768 for track in tracks)


@pytest.fixture(scope="session")
def arkit_names() -> tuple[str, ...]:
    """In the order of the data pack, which is the FaceLandmarker's."""
    return ARKIT


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return write_pack(tmp_path_factory.mktemp("pack"), ARKIT)
