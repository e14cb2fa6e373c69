"""The default voice: offline, sentence by sentence, and plain about what it cannot do."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from emo_live.audio.tts import MAX_TEXT, HibariSpeaker
from emo_live.errors import BadInputError, NotSupportedError
from emo_live.types import AudioChunk

pytest.importorskip("hibari")


async def spoken(text: str, voice: str | None = None, speaker: HibariSpeaker | None = None) -> list[AudioChunk]:
    return [chunk async for chunk in (speaker or HibariSpeaker()).speak(text, voice)]


def test_speaks_one_chunk_a_sentence() -> None:
    chunks = asyncio.run(spoken("Hello there. This is another sentence, and a longer one."))
    assert len(chunks) == 2
    for chunk in chunks:
        assert chunk.pcm.dtype == np.float32 and chunk.pcm.ndim == 1 and chunk.rate_hz == 24_000
        assert 0.05 < np.abs(chunk.pcm).max() <= 1 and len(chunk.pcm) > 0.3 * chunk.rate_hz


def test_two_at_a_time_share_a_voice() -> None:
    async def main() -> None:
        speaker = HibariSpeaker()
        one, other = await asyncio.gather(*(spoken("Hello. And goodbye.", None, speaker) for _ in range(2)))
        assert len(one) == len(other) == 2

    asyncio.run(main())


def test_the_bundled_voice_is_there_and_others_are_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIBARI_HOME", "/nowhere")
    assert HibariSpeaker().voices()[0] == "heart"
    for voice in ("emma", "nobody"):
        with pytest.raises(BadInputError, match="heart"):
            asyncio.run(spoken("Hello.", voice))


@pytest.mark.parametrize("text", ["", " \n", "x" * (MAX_TEXT + 1)])
def test_text_that_cannot_be_spoken(text: str) -> None:
    with pytest.raises(BadInputError):
        asyncio.run(spoken(text))


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "hibari", None)
    with pytest.raises(NotSupportedError, match="pip install"):
        asyncio.run(spoken("Hello."))
