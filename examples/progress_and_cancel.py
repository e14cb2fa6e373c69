"""Watch a render and stop it after a while: python examples/progress_and_cancel.py me.jpg speech.wav talk.mp4 SECONDS

Cancelling the task is all it takes: the half-written video is removed before the task ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import emo_live


def show(progress: emo_live.Progress) -> None:
    total = "?" if progress.total is None else progress.total
    print(f"\r{progress.stage}: {progress.done} of {total} frames", end="", file=sys.stderr)


async def main(portrait: str, audio: str, out: str, patience_s: float) -> str:
    avatar = await emo_live.Avatar.from_image(portrait)
    options = emo_live.RenderOptions(size=256, overwrite=True)
    try:
        async with asyncio.timeout(patience_s):
            result = await emo_live.render(avatar, audio, out, options, progress=show)
    except TimeoutError:
        return f"stopped after {patience_s} s"
    return f"{result.path}: {result.frames} frames"


if __name__ == "__main__":
    print(asyncio.run(main(*sys.argv[1:4], patience_s=float(sys.argv[4]))))
    print(f"is there a file? {Path(sys.argv[3]).exists()}")
