"""A stage that was started too early says which one comes before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn

from emo_live.errors import BadInputError
from emo_live.training import stages
from emo_live.training.pack import Pack
from emo_live.training.run import load_weights

PORTRAITS = ("faker_male_61",)  # of the work folder of the tests
HAVE_BASIS = ("basis.pt",)
HAVE_TRACKS = (*HAVE_BASIS, "tracks", "sound")
HAVE_PRIOR = (*HAVE_TRACKS, "prior.npz")


@pytest.mark.parametrize(
    ("stage", "there", "first"),
    [
        ("basis", (), "frames"),
        ("tracks", (), "basis"),
        ("autoencoder", (), "basis"),
        ("autoencoder", HAVE_BASIS, "frames"),
        ("mouth", HAVE_BASIS, "autoencoder"),
        ("encoder", (), "frames"),
        ("hearing", (), "basis"),
        ("hearing", HAVE_BASIS, "tracks"),
        ("gestures", HAVE_BASIS, "tracks"),
        ("prior", HAVE_BASIS, "tracks"),
        ("image", HAVE_TRACKS, "prior"),
        ("image", HAVE_PRIOR, "hearing"),
        ("video", HAVE_PRIOR, "hearing"),
        ("distil", (), "video"),
    ],
)
def test_what_comes_first(
    stage: str,
    there: tuple[str, ...],
    first: str,
    pack: Pack,
    work: Path,
    prior_file: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in there:
        (shutil.copytree if (work / name).is_dir() else shutil.copy)(work / name, tmp_path / name)
    monkeypatch.setattr(Pack, "portraits", lambda self, split: list(PORTRAITS))
    with pytest.raises(BadInputError, match=f"emo-live train {first}`"):
        stages.main([stage, "--pack", str(pack.folder), "--work", str(tmp_path)])


def test_what_ships_is_unpacked_first(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="emo-live train unpack`"):
        load_weights(nn.Linear(1, 1), tmp_path / "shipped")
