"""Downloads, with a folder in the hub's place; and what a real failure to reach it says."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, serving

from emo_live.errors import BadInputError
from emo_live.weights import open_model
from emo_live.weights import pull as pulling
from emo_live.weights.catalogue import CATALOGUE, Published
from emo_live.weights.hub import HuggingFaceHub, Listing, RemoteFile
from emo_live.weights.verify import verify

Run = Callable[..., tuple[int, str, str]]


class FolderHub:
    """Hub, of folders: repository -> file -> path. Breaks off after so many bytes, if told."""

    def __init__(self, repos: dict[str, dict[str, Path]]):
        self.repos = repos
        self.asked: list[tuple[str, int]] = []  # file, first byte
        self.revisions: dict[str, str | None] = {}
        self.break_after_bytes: int | None = None

    def listing(self, repo: str, revision: str | None) -> Listing:
        self.revisions[repo] = revision
        files = {}
        for name, path in self.repos[repo].items():
            data = path.read_bytes()
            large = len(data) > 10_000
            files[name] = RemoteFile(len(data), hashlib.sha256(data).hexdigest() if large else None)
        return Listing(COMMIT, files)

    def blocks(self, repo: str, commit: str, file: str, start: int, end: int) -> Iterator[bytes]:
        assert commit == COMMIT
        self.asked.append((file, start))
        data = self.repos[repo][file].read_bytes()
        for at in range(start, end, 1 << 20):
            block = data[at : min(at + (1 << 20), end)]
            if self.break_after_bytes is not None:
                self.break_after_bytes -= len(block)
                if self.break_after_bytes < 0:
                    raise BadInputError("the hub cannot be reached")
            yield block


@pytest.fixture
def hub(quick_copy: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    sound, vae, taesd = quick_copy / "wav2vec/wav2vec2-base-960h", quick_copy / "sd-vae-ft-mse", quick_copy / "taesd"

    def files(folder: Path) -> dict[str, Path]:
        return {path.name: path for path in folder.iterdir()}

    net = {"hallo/net.pth": quick_copy / "hallo/net.pth"}
    hub = FolderHub(
        {
            "fudan-generative-ai/hallo": net,
            "facebook/wav2vec2-base-960h": files(sound),
            "stabilityai/sd-vae-ft-mse": files(vae),
            "madebyollin/taesd": files(taesd),
        }
    )
    monkeypatch.setattr(pulling, "HuggingFaceHub", lambda: hub)
    return hub


def test_pull(hub: FolderHub, weights: Run, root: Path) -> None:
    code, out, _ = weights("pull", "hallo", "--revision", "v1")
    assert code == 0
    assert str(root / "hallo") in out and "note: " in out and "OpenRAIL" in out
    model = open_model("hallo", root)
    verify(model)
    assert model.taesd is not None
    source = json.loads((model.path / "manifest.json").read_text())["files"]["emo.safetensors"]["source"][0]
    assert (source["repo"], source["revision"], source["file"]) == (
        "fudan-generative-ai/hallo",
        COMMIT,
        "hallo/net.pth",
    )
    assert hub.revisions == {**dict.fromkeys(hub.repos), "fudan-generative-ai/hallo": "v1"}
    assert [path.name for path in root.iterdir()] == ["hallo"]  # downloads are gone


def test_only_what_is_needed_is_fetched(hub: FolderHub, weights: Run, root: Path) -> None:
    assert weights("pull", "hallo", "--no-taesd", "--keep-downloads", "--quiet")[0] == 0
    assert [file for file, _ in hub.asked] == [
        "hallo/net.pth",
        "config.json",
        "model.safetensors",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert "madebyollin/taesd" not in hub.revisions and open_model("hallo", root).taesd is None
    kept = root / ".downloads/fudan-generative-ai--hallo" / COMMIT / "hallo--net.pth"
    assert kept.is_file()
    hub.asked.clear()
    assert weights("pull", "hallo", "--no-taesd", "--overwrite")[0] == 0
    assert hub.asked == []  # everything was there
    assert not (root / ".downloads").exists()


def test_an_interrupted_download_goes_on(hub: FolderHub, weights: Run, root: Path) -> None:
    hub.break_after_bytes = 5 << 20
    code, _, err = weights("pull", "hallo")
    assert code == 2 and "cannot be reached" in err
    assert [path.name for path in root.iterdir()] == [".downloads"]
    hub.break_after_bytes = None
    hub.asked.clear()
    assert weights("pull", "hallo")[0] == 0
    assert hub.asked[0] == ("hallo/net.pth", 5 << 20)
    verify(open_model("hallo", root))


def test_a_damaged_download_is_fetched_again(hub: FolderHub, weights: Run, root: Path, tmp_path: Path) -> None:
    path = hub.repos["fudan-generative-ai/hallo"]["hallo/net.pth"]
    part = root / ".downloads/fudan-generative-ai--hallo" / COMMIT / "hallo--net.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    code, _, err = weights("pull", "hallo")
    assert code == 2 and "hallo/net.pth of fudan-generative-ai/hallo arrived damaged and was removed" in err
    assert not part.exists()
    assert weights("pull", "hallo")[0] == 0
    assert path.is_file()


def test_a_file_that_is_no_longer_there(hub: FolderHub, weights: Run, root: Path) -> None:
    hub.repos["stabilityai/sd-vae-ft-mse"].pop("config.json")
    code, _, err = weights("pull", "hallo")
    assert code == 2 and "stabilityai/sd-vae-ft-mse no longer holds config.json" in err
    assert hub.asked == [] and not root.exists()


def test_room_for_both_is_needed(hub: FolderHub, weights: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 120_000_000  # enough for the download and what is kept free, not for the model made of it
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    code, _, err = weights("pull", "hallo")
    assert code == 2 and "are needed" in err
    assert hub.asked == [] and not root.exists()


def test_what_is_there_is_not_fetched_again(hub: FolderHub, weights: Run, root: Path, hallo_folder: Path) -> None:
    shutil.copytree(hallo_folder, root / "hallo")
    code, _, err = weights("pull", "hallo")
    assert code == 2 and "exists already" in err and "--overwrite" in err
    assert hub.revisions == {}


def test_names_of_the_hub_lead_nowhere(tmp_path: Path) -> None:
    place = pulling._place(tmp_path, "../../evil", "../x", "a/../../../b")
    assert place.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("published", CATALOGUE.values(), ids=list(CATALOGUE))
def test_nothing_non_commercial_is_in_the_catalogue(published: Published) -> None:
    names = [path for part in published.parts.values() for path in (part.repo, *part.files.values())]
    for word in ("insightface", "face_analysis", "antelope", "glintr", "net_g", "codeformer", "audio_separator"):
        assert [name for name in names if word in name.lower()] == []
    assert all(part.licence for part in published.parts.values())
    assert any("OpenRAIL" in note for note in published.notes)


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, weights: Run, root: Path) -> None:
    """The real library, and nobody who answers."""
    monkeypatch.setattr(pulling, "HuggingFaceHub", lambda: HuggingFaceHub("http://127.0.0.1:9"))
    code, _, err = weights("pull", "hallo")
    assert code == 2 and err.count("\n") == 1
    assert "the hub cannot be reached for fudan-generative-ai/hallo" in err
    assert "run the command again" in err and "emo-live weights convert" in err
    assert not root.exists()


def test_the_real_library_reads_from_any_byte(tmp_path: Path) -> None:
    (tmp_path / "model/sub").mkdir(parents=True)
    data = random.Random(0).randbytes(20_000_000)
    (tmp_path / "model/sub/net.pth").write_bytes(data)
    with serving({"someone/model": tmp_path / "model"}) as (address, ranges):
        hub = HuggingFaceHub(address)
        listing = hub.listing("someone/model", None)
        assert listing.files == {"sub/net.pth": RemoteFile(len(data), hashlib.sha256(data).hexdigest())}
        blocks = hub.blocks("someone/model", listing.commit, "sub/net.pth", 1_000_000, len(data))
        assert b"".join(blocks) == data[1_000_000:]
        assert ranges == ["bytes=1000000-17777215", "bytes=17777216-19999999"]
        with pytest.raises(BadInputError, match="someone/other is not on the hub, or not for you"):
            hub.listing("someone/other", None)
        with pytest.raises(BadInputError, match="no such revision"):
            hub.listing("someone/model", "v9")
        with pytest.raises(BadInputError, match="a file of someone/model is no longer there"):
            list(hub.blocks("someone/model", listing.commit, "gone.pth", 0, 10))


def test_offline_mode_is_respected(monkeypatch: pytest.MonkeyPatch, weights: Run, root: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = weights("pull", "hallo")
    assert code == 2 and "HF_HUB_OFFLINE" in err and err.count("\n") == 1
