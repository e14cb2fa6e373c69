"""End-to-end tests render with the shipped model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import write_wav

from emo_live import samples
from emo_live.audio.framer import Framer
from emo_live.audio.source import AudioFile, to_mono
from emo_live.types import Float32


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def greeting() -> Float32:
    """The bundled greeting, (S,) at 16 kHz."""
    with AudioFile(samples.greeting()) as source:
        framer = Framer(source.rate_hz)
        steps = [step.model for chunk in source.chunks() for step in framer.push(to_mono(chunk))]
        return np.concatenate([*steps, *(step.model for step in framer.flush())])


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory, greeting: Float32) -> Path:
    """talk.wav: two seconds of silence, the first five of the greeting, three seconds of silence."""
    quiet = np.zeros(16_000, np.float32)
    sound = np.concatenate([quiet, quiet, greeting[: 5 * 16_000], quiet, quiet, quiet])
    return write_wav(tmp_path_factory.mktemp("sound") / "talk.wav", sound)
