"""Talk live, and be interrupted: python examples/live_session.py me.jpg speech.wav [ENGINE]

The sound is given as it would come from a microphone; pairs of picture and sound come out 25 times a second.
"""

from __future__ import annotations

import asyncio
import sys

import emo_live
from emo_live.audio.source import AudioFile, to_mono

CHUNK_S = 0.02


async def speak(session: emo_live.AvatarSession, audio: str) -> None:
    with AudioFile(audio) as source:
        for chunk in source.chunks():
            pcm, size = to_mono(chunk), int(CHUNK_S * source.rate_hz)
            for start in range(0, len(pcm), size):
                await session.push_audio(pcm[start : start + size], source.rate_hz)
                await asyncio.sleep(CHUNK_S)
    await session.end_utterance()


async def tell(session: emo_live.AvatarSession) -> None:
    async for event in session.events():
        if not isinstance(event, emo_live.StatsReport):
            print(event)


async def main(portrait: str, audio: str, engine: str = "tiny") -> None:
    avatar = await emo_live.Avatar.from_image(portrait)
    async with asyncio.TaskGroup() as tasks, emo_live.AvatarSession(avatar, engine=engine, size=256) as session:
        tasks.create_task(tell(session))
        speaking = tasks.create_task(speak(session, audio))
        async for pair in session:  # pair.video: (256, 256, 3) uint8; pair.audio: (1920,) int16 at 48 kHz
            if pair.index == 50:
                speaking.cancel()
                heard = await session.interrupt()
                print(f"heard {heard.ms} ms of {heard.utterance} before the interrupt")
            if pair.index == 75:
                break
        print(f"the first frame came {session.stats().first_frame_ms:.0f} ms after the first sound")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
