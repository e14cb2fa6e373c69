"""Who plays what: the clips that training uses of a pack, and the portraits that perform them. Always the same."""

from __future__ import annotations

import numpy as np

from emo_live.training.pack import Clip, Pack
from emo_live.training.performance import programme

SPLITS = ("val", "train")
FEW = 230  # clips of the one talker who is 95 % of the real motion


def chosen_clips(pack: Pack, split: str) -> list[Clip]:
    """All synthetic speech and some of the real, in a fixed random order, so that any first part is a fair sample."""
    clips = pack.clips(split)
    random = np.random.default_rng(1)
    order = [clips[i] for i in random.permutation(len(clips))]
    common = [clip for clip in order if clip.voice == "grid_s1"][FEW:]
    return [clip for clip in order if clip not in common]


def casting(pack: Pack) -> list[tuple[str, list[str]]]:
    """Which portrait plays which performances: every performance once, portraits in a fixed random order."""
    cast = []
    for split in SPLITS:
        names, portraits = programme(chosen_clips(pack, split)), pack.portraits(split)
        order = np.random.default_rng(3).permutation(len(portraits))
        cast += [(portraits[i], names[k :: len(portraits)]) for k, i in enumerate(order)]
    return cast
