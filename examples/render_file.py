"""A portrait and a speech file become a video: python examples/render_file.py me.jpg speech.wav talk.mp4"""

from __future__ import annotations

import asyncio
import sys

import emo_live


async def main(portrait: str, audio: str, out: str) -> None:
    avatar = await emo_live.Avatar.from_image(portrait)
    result = await emo_live.render(avatar, audio, out, emo_live.RenderOptions(size=256, overwrite=True))
    print(f"{result.path}: {result.duration_s:.1f} s, made {result.times_real_time:.1f} times faster than it plays")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:4]))
    except emo_live.EmoLiveError as error:
        sys.exit(f"error: {error}")
