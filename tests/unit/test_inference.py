"""Compiled graphs that a later process loads: only whole ones, and never so many that a disk fills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import bundled_avatar

from emo_live.engine.backend_openvino import OpenVinoBackend
from emo_live.face.landmarker import FaceFinder
from emo_live.folders import CACHE_VARIABLE
from emo_live.inference import GraphCache, graph_name


def loaded(cache: GraphCache, name: str) -> bytes:
    held = cache.load(name)
    assert held is not None
    return held.tobytes()


def test_a_graph_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "new")
    cache.save("a.graph", lambda: b"compiled")
    assert loaded(cache, "a.graph") == b"compiled"
    assert cache.load("b.graph") is None
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0, "nobody else's business"


@pytest.mark.parametrize("damage", ["empty", "head", "cut", "changed"])
def test_a_damaged_one_is_removed(tmp_path: Path, damage: str) -> None:
    cache, path = GraphCache(tmp_path), tmp_path / "a.graph"
    cache.save("a.graph", lambda: b"compiled")
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "head": whole[:10], "cut": whole[:-1], "changed": whole[:-1] + b"x"}[damage])
    assert cache.load("a.graph") is None
    assert not path.exists()


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = GraphCache(tmp_path / "file")
    cache.save("a.graph", lambda: b"compiled")
    assert cache.load("a.graph") is None


def test_the_oldest_make_room_and_abandoned_parts_go(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path)
    for number in range(16):
        cache.save(f"{number}.graph", lambda: b"x")
        os.utime(tmp_path / f"{number}.graph", (number, number))
    (tmp_path / "9.graph.1.ab.part").write_bytes(b"")
    (tmp_path / "8.graph.1.ab.part").write_bytes(b"")
    os.utime(tmp_path / "8.graph.1.ab.part", (0, 0))
    assert loaded(cache, "0.graph") == b"x", "which is of use again"
    cache.save("16.graph", lambda: b"x")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{number}.graph" for number in (0, *range(2, 17))} | {"9.graph.1.ab.part"}


def test_every_fact_counts() -> None:
    facts: list[tuple[object, ...]] = [(b"ab", "c"), (b"a", "bc"), (b"ab", "c", 1), (b"ab", ("c",))]
    names = [graph_name({}, *fact) for fact in facts] + [graph_name({"threads": 1}, b"ab", "c")]
    assert len(set(names)) == 5
    assert names[0] == graph_name({}, b"ab", "c")


def test_a_loaded_graph_computes_what_the_compiled_one_does(tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        backend = OpenVinoBackend(threads=1, graphs=GraphCache(tmp_path))
        prepared = backend.prepare(bundled_avatar())
        outputs.append(prepared.features)
        backend.close()
        assert len(list(tmp_path.iterdir())) == 1
    changed = tmp_path.stat().st_mtime_ns
    assert all(np.array_equal(outputs[0][name], outputs[1][name]) for name in outputs[0])
    assert tmp_path.stat().st_mtime_ns == changed


def test_what_another_machine_left_is_compiled_again(tmp_path: Path) -> None:
    backend = OpenVinoBackend(threads=1, graphs=GraphCache(tmp_path))
    made = backend.prepare(bundled_avatar()).features
    backend.close()
    (path,) = tmp_path.iterdir()
    path.unlink()
    GraphCache(tmp_path).save(path.name, lambda: b"whole, but no graph")
    backend = OpenVinoBackend(threads=1, graphs=GraphCache(tmp_path))
    again = backend.prepare(bundled_avatar()).features
    backend.close()
    assert all(np.array_equal(made[name], again[name]) for name in made)
    assert path.stat().st_size > 1_000_000, "and kept"


def test_the_face_finder_finds_the_same_with_kept_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    picture = bundled_avatar().portrait
    FaceFinder().load()
    kept = {path: path.stat().st_ino for path in (tmp_path / "graphs").iterdir()}
    assert len(kept) == 3
    monkeypatch.setattr("openvino.Core.compile_model", None)  # is not called any more
    again = FaceFinder().find(picture)[0]
    monkeypatch.undo()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "empty"))
    first = FaceFinder().find(picture)[0]
    np.testing.assert_array_equal(again.points, first.points)
    assert {path: path.stat().st_ino for path in (tmp_path / "graphs").iterdir()} == kept


def test_signals_are_handled_after_networks_were_freed() -> None:
    """In the order in which they were made, which is not that of a stack; a crash would take pytest with it."""
    code = """if True:
        import os, signal
        from emo_live.engine.backend_openvino import OpenVinoBackend
        from emo_live.face.landmarker import FaceFinder

        caught = []
        signal.signal(signal.SIGINT, lambda *_: caught.append(1))
        face, first, second = FaceFinder(), OpenVinoBackend(), OpenVinoBackend()
        face.load()
        del face
        first.close()
        del first
        second.close()
        del second
        os.kill(os.getpid(), signal.SIGINT)
        assert caught
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
