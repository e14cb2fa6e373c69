"""What an engine process leaves for the next one, so that a dead one is replaced quickly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fakes import bundled_avatar

from emo_live.engine.backend_openvino import OpenVinoBackend


def test_a_later_backend_finds_the_prior_and_the_avatar(tmp_path: Path) -> None:
    first = OpenVinoBackend(threads=1, cache=tmp_path)
    made = first.prepare(bundled_avatar())
    first.close()
    second = OpenVinoBackend(threads=1, cache=tmp_path)
    kept = second.prepare(bundled_avatar())
    assert ("prepare", 1) not in second._compiled, "the portrait's network was not even loaded"
    second.close()
    assert made.features.keys() == kept.features.keys()
    assert all(np.array_equal(made.features[name], kept.features[name]) for name in made.features)
    assert np.array_equal(first.prior.readout, second.prior.readout)
    assert not list(tmp_path.glob("*.[0-9]*")), "nothing half-written is left"


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    backend = OpenVinoBackend(threads=1, cache=tmp_path / "gone")
    assert backend.prior.basis.any()
    backend.close()
