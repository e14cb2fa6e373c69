"""open_model, and manifests that nobody should trust."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mini_checkpoint as mini
import pytest

from emo_live.config import TINY, EmoConfig
from emo_live.config_dict import config_from_dict
from emo_live.errors import BadInputError
from emo_live.folders import CACHE_VARIABLE
from emo_live.models.checkpoints.echomimic import ECHOMIMIC
from emo_live.models.checkpoints.hallo import HALLO, JOYHALLO
from emo_live.weights import default_root, open_model
from emo_live.weights.folder import ROOT_VARIABLE
from emo_live.weights.manifest import MANIFEST

Run = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("config", [HALLO, JOYHALLO, ECHOMIMIC, TINY.emo, mini.MINI_CONFIGS["hallo"]])
def test_configs_survive_json(config: EmoConfig) -> None:
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config
    assert config_from_dict(asdict(config)) == config


def at(*path: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def inner(value: dict[str, Any]) -> dict[str, Any]:
        for name in path:
            value = value[name]
        return value

    return inner


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("name"), "config lacks name"),
        (lambda c: c.update(evil=1), r"unknown fields \(evil\)"),
        (lambda c: c["backbone"].update(heads="8"), "config.backbone.heads must be of type int"),
        (lambda c: c["backbone"].update(heads=True), "config.backbone.heads must be of type int"),
        (lambda c: c["backbone"].update(heads=0), "heads must be from 1"),
        (lambda c: c["backbone"].update(heads=10**12), "heads must be from 1"),
        (lambda c: c["backbone"].update(layers_per_block=1000), "layers_per_block must be from 1 to 16"),
        (lambda c: c["backbone"].update(block_channels=[]), "list of sizes"),
        (lambda c: c["backbone"].update(block_channels=[32, 10**9]), "list of sizes"),
        (lambda c: c["backbone"].update(block_channels=[32] * 1000), "list of at most"),
        (lambda c: c["backbone"].update(block_channels=32), "must be a list"),
        (lambda c: c["backbone"].update(attention_levels=[1, 1, 1, 0]), r"attention_levels\[0\] must be of type bool"),
        (lambda c: c["backbone"].update(context_gain=float("nan")), "context_gain must be a number"),
        (lambda c: c["backbone"].update(audio=[]), "config.backbone.audio must be an object"),
        (lambda c: c.update(reference=None), "config.reference must be an object"),
        (lambda c: c["schedule"].update(kind="cosine"), "must be one of linear, scaled_linear"),
        (lambda c: c.update(motion_frames=-1), "motion_frames must be from 0"),
    ],
)
def test_configs_that_are_refused(change: Change, expected: str) -> None:
    value = json.loads(json.dumps(asdict(HALLO)))
    change(value)
    with pytest.raises(BadInputError, match=expected):
        config_from_dict(value)


@pytest.mark.parametrize("value", [None, [], "config", 3])
def test_what_is_no_config(value: object) -> None:
    with pytest.raises(BadInputError, match="config must be an object"):
        config_from_dict(value)


def test_a_name_is_looked_for_in_the_root(hallo_folder: Path) -> None:
    model = open_model("hallo", hallo_folder.parent)
    assert model == open_model(hallo_folder) == open_model(str(hallo_folder))
    assert (model.path, model.name, model.model) == (hallo_folder, "hallo", "hallo")
    assert model.config == mini.MINI_CONFIGS["hallo"]
    assert [path.relative_to(hallo_folder).as_posix() for path in (model.emo, model.sound, model.vae)] == [
        "emo.safetensors",
        "sound",
        "vae",
    ]


def test_what_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="emo-live weights pull hallo2.*emo-live weights convert hallo2"):
        open_model("hallo2", tmp_path)
    with pytest.raises(BadInputError, match="no model is called 'hallo3'.*hallo, hallo2, joyhallo, echomimic"):
        open_model("hallo3", tmp_path)
    with pytest.raises(BadInputError, match="is no model folder.*weights convert"):
        open_model(tmp_path)


def test_the_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv(ROOT_VARIABLE)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine/weights"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache/emo_live/weights"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_root().parts[-4:] == ("Library", "Caches", "emo_live", "weights")


@pytest.fixture
def copy(hallo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hallo_folder, tmp_path / "hallo"))


def alter(folder: Path, change: Change) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


ENTRY = {"sha256": "0" * 64, "bytes": 1, "source": [], "licence": ""}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["files"].update({"../../x": ENTRY}), "no name of a model's file"),
        (lambda m: m["files"].update({"/etc/passwd": ENTRY}), "no name of a model's file"),
        (lambda m: m["files"].update({"sound/../x": ENTRY}), "no name of a model's file"),
        (lambda m: m["files"].update({"C:\\x": ENTRY}), "no name of a model's file"),
        (lambda m: m["files"].update({".hidden": ENTRY}), "no name of a model's file"),
        (lambda m: m["files"].update({"manifest.json": ENTRY}), "no name of a model's file"),
        (lambda m: m["files"].update({f"f{i}": ENTRY for i in range(200)}), "more than 100 files"),
        (lambda m: m["files"].update({"sound/x": {**ENTRY, "sha256": "0"}}), "size or sum of sound/x"),
        (lambda m: m["files"].update({"sound/x": {**ENTRY, "bytes": -1}}), "size or sum of sound/x"),
        (lambda m: m["files"].update({"sound/x": {**ENTRY, "bytes": 1.5}}), "bytes must be of type int"),
        (lambda m: m["files"].update({"sound/x": ENTRY}), "is missing"),
        (lambda m: m["files"].pop("vae/config.json"), "does not list vae/config.json"),
        (lambda m: m["files"].pop("taesd/config.json"), "does not list taesd/config.json"),
        (lambda m: m.update(files=[]), "files must be an object"),
        (lambda m: m.update(format=2), "format 2, this program reads format 1"),
        (lambda m: m.update(format="1"), "format must be of type int"),
        (lambda m: m.update(model="evil"), "must be one of hallo, hallo2"),
        (lambda m: m.update(model="echomimic"), "does not list sound/encoder.safetensors"),
        (lambda m: m.update(name="../x"), "not the name of a model"),
        (lambda m: m.update(notes="x"), "must be a list"),
        (lambda m: m.pop("config"), "lacks config"),
        (lambda m: m["config"]["backbone"].update(heads=10**9), "heads must be from 1"),
        (lambda m: m.update(extra=1), "unknown fields"),
    ],
)
def test_manifests_that_are_refused(copy: Path, change: Change, expected: str) -> None:
    alter(copy, change)
    with pytest.raises(BadInputError, match=expected) as caught:
        open_model(copy)
    assert "\n" not in str(caught.value) and "pull or convert" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff", b'{"format": 1}', b"[" * 100_000, b" " * 2_000_000]
)
def test_what_is_no_manifest(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(BadInputError):
        open_model(copy)


def test_links_that_lead_out(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (copy / "vae").rename(outside)
    (copy / "vae").symlink_to(outside)
    with pytest.raises(BadInputError, match="leads out of its folder"):
        open_model(copy)


def test_a_folder_may_be_a_link(copy: Path, tmp_path: Path) -> None:
    """Weights are large, and people keep them on other disks."""
    (tmp_path / "link").symlink_to(copy)
    assert open_model(tmp_path / "link").path == tmp_path / "link"


def test_files_of_another_size_and_files_smuggled_in(copy: Path) -> None:
    with (copy / "emo.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BadInputError, match="bytes, .* are listed"):
        open_model(copy)
    with (copy / "emo.safetensors").open("rb+") as stream:
        stream.truncate((copy / "emo.safetensors").stat().st_size - 1)
    (copy / ".DS_Store").write_bytes(b"x")
    open_model(copy)
    (copy / "sound/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BadInputError, match="does not list .sound/pytorch_model.bin"):
        open_model(copy)


def test_verify(copy: Path, weights: Run) -> None:
    code, out, _ = weights("verify", copy, "--json")
    assert code == 0 and json.loads(out) == {"name": "hallo", "path": str(copy), "ok": True}
    data = bytearray((copy / "emo.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "emo.safetensors").write_bytes(data)
    code, _, err = weights("verify", copy)
    assert code == 2 and "emo.safetensors' was altered or is damaged" in err


def test_verify_compares_with_the_networks(copy: Path, weights: Run) -> None:
    """A manifest whose sums are right, and whose config is another model's."""
    alter(copy, lambda m: m["config"]["audio_projection"].update(hidden=50))
    code, _, err = weights("verify", copy)
    assert code == 2 and "have another shape (audioproj.proj1.weight has 48 x 640, not 50 x 640)" in err


def test_list(hallo_folder: Path, weights: Run, root: Path) -> None:
    code, out, _ = weights("list")
    assert code == 0 and str(root) in out and out.count("not installed") == 5
    shutil.copytree(hallo_folder, root / "hallo")
    shutil.copytree(hallo_folder, root / "student")
    shutil.copytree(hallo_folder, root / "echomimic")
    (root / "echomimic/emo.safetensors").write_bytes(b"")
    rows = {row["name"]: row for row in json.loads(weights("list", "--json")[1])["models"]}
    assert list(rows) == ["hallo", "hallo2", "joyhallo", "echomimic", "echomimic-acc", "student"]
    assert rows["hallo"]["state"] == rows["student"]["state"] == "installed"
    assert rows["hallo"]["path"] == str(root / "hallo") and rows["hallo"]["size_bytes"] > 10**7
    assert rows["student"]["title"] == "your own"
    assert rows["hallo2"]["state"] == "not installed" and rows["hallo2"]["size_bytes"] > 5 * 10**9
    assert rows["hallo2"]["licences"] == ["MIT", "Apache-2.0"]
    assert rows["echomimic"]["state"] == "damaged" and "bytes" in rows["echomimic"]["problem"]
    assert "echomimic: '" in weights("list")[1]


def test_opening_needs_no_torch(hallo_folder: Path) -> None:
    lines = ("import sys", "from emo_live.weights import open_model", f"open_model({str(hallo_folder)!r})")
    code = "\n".join((*lines, "print('torch' in sys.modules)"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout == "False\n", run.stderr
