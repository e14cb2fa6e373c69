"""Several avatars share one engine, as far as it has time: python examples/several_sessions.py ENGINE me.jpg you.jpg

A session that would make the others fall behind is refused with the reason; the others never notice.
"""

from __future__ import annotations

import asyncio
import sys

import emo_live


async def converse(portrait: str, pool: emo_live.EnginePool) -> str:
    avatar = await emo_live.Avatar.from_image(portrait)
    try:
        async with emo_live.AvatarSession(avatar, size=256, pool=pool) as session:
            sink = emo_live.MemorySink()
            session.attach(sink)
            await asyncio.sleep(2)
            return f"{portrait}: {session.stats().pairs} pairs"
    except emo_live.NotReadyError as error:
        return f"{portrait}: refused, {error}"


async def main(engine: str, *portraits: str) -> None:
    async with emo_live.EnginePool(engine) as pool:
        for line in await asyncio.gather(*(converse(portrait, pool) for portrait in portraits)):
            print(line)
        print(pool.stats())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
