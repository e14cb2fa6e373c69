"""Small checkpoints laid out as their publishers do, and a way to run the commands on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import mini_checkpoint as mini  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from emo_live.cli import main  # noqa: E402
from emo_live.weights.catalogue import CATALOGUE, Published  # noqa: E402
from emo_live.weights.folder import ROOT_VARIABLE  # noqa: E402
from emo_live.weights.manifest import Model  # noqa: E402

State = dict[str, Tensor]


@pytest.fixture(scope="session")
def states() -> dict[str, State]:
    """State dicts of small models, by model."""
    names: tuple[Model, ...] = ("hallo", "joyhallo", "echomimic")
    return {name: mini.mini_state(name) for name in names}


@pytest.fixture(scope="session")
def hallo_copy(tmp_path_factory: pytest.TempPathFactory, states: dict[str, State]) -> Path:
    """A copy of Hallo's repository on the hub, as far as we need it, and TAESD."""
    folder = tmp_path_factory.mktemp("hub") / "pretrained_models"
    (folder / "hallo").mkdir(parents=True)
    torch.save(states["hallo"], folder / "hallo/net.pth")
    mini.write_wav2vec(folder / "wav2vec/wav2vec2-base-960h")
    mini.write_vae(folder / "sd-vae-ft-mse")
    mini.write_taesd(folder / "taesd")
    return folder


@pytest.fixture(scope="session")
def quick_copy(tmp_path_factory: pytest.TempPathFactory, hallo_copy: Path, states: dict[str, State]) -> Path:
    """The same with safetensors in the pickle's place, which are read a lot faster."""
    folder = tmp_path_factory.mktemp("quick") / "pretrained_models"
    (folder / "hallo").mkdir(parents=True)
    save_file(states["hallo"], folder / "hallo/net.pth")
    for part in ("wav2vec", "sd-vae-ft-mse", "taesd"):
        (folder / part).symlink_to(hallo_copy / part)
    return folder


@pytest.fixture(scope="session")
def echomimic_files(states: dict[str, State]) -> dict[str, State]:
    """The state dicts of EchoMimic's four files."""
    from emo_live.models.checkpoints.echomimic import FILES

    def part(name: str, prefix: str) -> State:
        own = {key.removeprefix(prefix): value for key, value in states["echomimic"].items() if key.startswith(prefix)}
        motion = name == "motion_module"
        return {key: value for key, value in own.items() if (".motion_modules." in key) == motion}

    return {name: part(name, prefix) for name, prefix in FILES.items()}


@pytest.fixture(scope="session")
def echomimic_copy(
    tmp_path_factory: pytest.TempPathFactory, echomimic_files: dict[str, State], hallo_copy: Path
) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "pretrained_weights"
    (folder / "audio_processor").mkdir(parents=True)
    for name, state in echomimic_files.items():
        torch.save(state, folder / f"{name}.pth")
    decoder = {"decoder.blocks.0.attn.query.weight": torch.zeros(2, 2)}
    dims = {"n_mels": 80, "n_audio_state": mini.WIDTH}
    whisper = {"dims": dims, "model_state_dict": {**mini.whisper_state(), **decoder}}
    torch.save(whisper, folder / "audio_processor/whisper_tiny.pt")
    (folder / "sd-vae-ft-mse").symlink_to(hallo_copy / "sd-vae-ft-mse")
    return folder


@pytest.fixture(scope="session")
def hallo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder; not to be changed."""
    return mini.mini_model_folder(tmp_path_factory.mktemp("weights") / "hallo")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands look for models and put them; their configs are the small ones."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setattr(Published, "config", lambda self: mini.MINI_CONFIGS[self.model])
    return tmp_path / "weights"


@pytest.fixture
def weights(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `emo-live weights ...` -> exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["weights", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def hallo_published() -> Published:
    return CATALOGUE["hallo"]
