"""Any voice speaks through the avatar: python examples/your_own_voice.py me.jpg "Some text." talk.mp4 [ENGINE]

A voice is an object with one method. This one hums a note for every word; yours calls a model or a service there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np

import emo_live
from emo_live.transport.file import VideoFileWriter


class Humming:
    async def speak(self, text: str, voice: str | None) -> AsyncIterator[emo_live.AudioChunk]:
        for word in text.split():
            t = np.arange(24_000 * len(word) // 10) / 24_000
            tone = 0.3 * np.sin(2 * np.pi * (150 + 10 * len(word)) * t) * np.sin(np.pi * t / t[-1])
            yield emo_live.AudioChunk(tone.astype(np.float32), 24_000)


async def main(portrait: str, text: str, out: str, engine: str = "tiny") -> None:
    avatar = await emo_live.Avatar.from_image(portrait)
    with VideoFileWriter(out, width=256, height=256, rate_hz=48_000, channels=1, overwrite=True) as file:

        def write(pair: emo_live.AVPair) -> None:
            file.write_audio(pair.audio[:, None].astype(np.float32) / 32768)
            file.write_video(pair.video)

        async with emo_live.AvatarSession(avatar, engine=engine, size=256, speaker=Humming()) as session:
            await session.say(text)
            async for pair in session:
                await asyncio.to_thread(write, pair)
                if session.state == "idle":
                    break
        await asyncio.to_thread(file.close)
    print(f"{out}: {pair.index / 25:.1f} s")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
