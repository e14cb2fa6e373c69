"""`emo-live bench models`: our denoiser's step against diffusers' own UNets doing the same work, paired in one run.

Two networks have a counterpart there: single pictures (UNet2DConditionModel, whose weights are handed over, so that the
results must be equal too) and frames with temporal layers (UNetMotionModel). Reference- and audio-attention have none.
Both are in channels-last order, which is quicker for either. Each pair is timed back to back, in an order drawn anew,
by the CPU time of one thread, so that whatever else the machine does falls on both or on neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from emo_live.config import BackboneConfig
from emo_live.errors import EngineError, NotSupportedError
from emo_live.hardware import describe
from emo_live.models.backbone import Backbone, Conditions
from emo_live.models.checkpoints import sd15
from emo_live.models.compiled import placed
from emo_live.models.libraries import silent

TOKENS, FRAMES = 4, 4
MAX_FLOP_DIFFERENCE = 0.03  # share by which the work of the two may differ
RESAMPLES = 2000  # of the bootstrap

Step = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Size:
    """A width of the denoiser and the side of the latents that it is timed on."""

    name: str
    config: BackboneConfig
    side: int


def _sd(channels: tuple[int, ...], levels: tuple[bool, ...], layers: int, context: int) -> BackboneConfig:
    return replace(
        sd15.UNET,
        out_channels=4,
        block_channels=channels,
        attention_levels=levels,
        layers_per_block=layers,
        context_width=context,
        motion=sd15.MOTION,
    )


# As wide and as deep as the tiny model, with the feed-forward and temporal layers that diffusers has; and a fifth of
# Stable Diffusion's width at 256 px.
SIZES = (
    Size("tiny", _sd((96, 128), (True, True), 1, 128), 8),
    Size("mid", _sd((64, 128, 256, 256), (True, True, True, False), 2, 128), 32),
)


@dataclass(frozen=True, slots=True)
class Row:
    """ratio: theirs / ours, median of the pairs, above 1 where ours is faster; low and high: its 95 % interval by
    bootstrap; p: of a sign test, two-sided; difference: the largest of the results, where the weights are the same."""

    network: str
    ours_gflop: float
    diffusers_gflop: float
    ours_ms: float
    diffusers_ms: float
    ratio: float
    low: float
    high: float
    won: str
    p: float
    difference: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """ours_ms and diffusers_ms: medians of CPU time, on one thread, in float32."""

    machine: dict[str, Any]
    torch: str
    pairs: int
    denoiser_step: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Contest:
    """Two networks on the same inputs. same_weights: their results must be equal."""

    name: str
    ours: Step
    theirs: Step
    same_weights: bool


@torch.inference_mode()
def measure(*, pairs: int, tell: Callable[[str], None] = lambda name: None) -> Report:
    """tell: is given the name of what is timed next.

    Raises NotSupportedError without diffusers, EngineError where the two do not do the same work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[Row] = []
        for size in SIZES:
            for make in (pictures, frames):
                contest = make(size)
                tell(contest.name)
                rows.append(compared(contest, pairs))
        return Report(describe(), torch.__version__, pairs, tuple(rows))
    finally:
        torch.set_num_threads(before)


def pictures(size: Size) -> Contest:
    """FRAMES single pictures in a batch."""
    config = replace(size.config, motion=None)
    ours, theirs = _ready(Backbone(config)), _ready(_diffusers("UNet2DConditionModel", config))
    theirs.load_state_dict(ours.state_dict())
    noisy, times, tokens = _inputs(size)
    given = Conditions(batch=FRAMES, tokens=tokens)
    return Contest(
        f"{size.name}, pictures",
        lambda: ours(noisy, times, given),
        lambda: theirs(noisy, times, encoder_hidden_states=tokens, return_dict=False)[0],
        same_weights=True,
    )


def frames(size: Size) -> Contest:
    """One window of FRAMES frames. Weights are not handed over: the group norm of diffusers' temporal layers is over
    all frames, that of the published checkpoints over one, so that results differ anyway."""
    config = size.config
    assert config.motion is not None
    ours = _ready(Backbone(config))
    motion = {"motion_max_seq_length": config.motion.max_frames, "motion_num_attention_heads": config.motion.heads}
    theirs = _ready(_diffusers("UNetMotionModel", config, "Motion", **motion))
    noisy, times, tokens = _inputs(size)
    given, video = Conditions(batch=1, tokens=tokens), noisy.transpose(0, 1)[None]
    return Contest(
        f"{size.name}, frames",
        lambda: ours(noisy, times, given),
        lambda: theirs(video, times[:1], encoder_hidden_states=tokens, return_dict=False)[0],
        same_weights=False,
    )


def compared(contest: Contest, pairs: int) -> Row:
    work = [gflop(step) for step in (contest.ours, contest.theirs)]
    if abs(work[0] / work[1] - 1) > MAX_FLOP_DIFFERENCE:
        raise EngineError(f"{contest.name}: {work[0]:.2f} GFLOP are not compared with {work[1]:.2f}: not the same work")
    difference = None
    if contest.same_weights:
        difference = (contest.ours() - contest.theirs()).abs().max().item()
        if difference > 1e-3:
            raise EngineError(f"{contest.name}: results differ by {difference:.1e}: not the same network")
    times = paired(contest.ours, contest.theirs, pairs)
    ratios = times[:, 1] / times[:, 0]
    low, high = interval(ratios)
    won = int((ratios > 1).sum())
    ours_ms, theirs_ms = np.median(times, 0) * 1000
    return Row(
        contest.name,
        work[0],
        work[1],
        float(ours_ms),
        float(theirs_ms),
        float(np.median(ratios)),
        low,
        high,
        f"{won} of {pairs}",
        sign_test(won, pairs),
        difference,
    )


def gflop(step: Step) -> float:
    """What torch's own counter sees of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def paired(first: Step, second: Step, pairs: int) -> np.ndarray:
    """(pairs, 2) seconds of CPU, after one round that does not count. Which goes first is drawn for each pair."""
    random = np.random.default_rng(0)
    times = np.zeros((pairs + 1, 2))
    for row in times:
        order = [(0, first), (1, second)]
        for column, step in order if random.random() < 0.5 else order[::-1]:
            start = time.process_time()
            step()
            row[column] = time.process_time() - start
    return times[1:]


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95 % of the medians of resampled pairs."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (RESAMPLES, len(ratios))), 1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def sign_test(won: int, pairs: int) -> float:
    """Two-sided: how likely so uneven a count is, if either were as likely to be faster."""
    tail = min(won, pairs - won)
    return min(1.0, 2 * sum(math.comb(pairs, k) for k in range(tail + 1)) / 2**pairs)


def _inputs(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """noisy (T, C, h, w), timesteps (T,), tokens (T, L, D)."""
    generator = torch.Generator().manual_seed(0)
    context = size.config.context_width
    assert context is not None
    noisy = torch.randn(FRAMES, size.config.in_channels, size.side, size.side, generator=generator)
    return noisy, torch.full((FRAMES,), 499), torch.randn(FRAMES, TOKENS, context, generator=generator)


def _ready(model: nn.Module) -> nn.Module:
    """Random weights, also where training starts from zeros."""
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    with silent("diffusers"):  # it warns of casting, whatever the model is
        return placed(model, torch.device("cpu"), torch.float32)


def _diffusers(name: str, config: BackboneConfig, ending: str = "", **more: Any) -> nn.Module:
    """One of diffusers' UNets of our config. ending: of the names of its blocks."""
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise NotSupportedError('the comparison needs diffusers: pip install "emo-live[gpu]"') from error

    levels = config.attention_levels
    down = tuple(f"{'CrossAttn' * attends}DownBlock{ending or '2D'}" for attends in levels)
    up = tuple(f"{'CrossAttn' * attends}UpBlock{ending or '2D'}" for attends in reversed(levels))
    # What UNet2DConditionModel calls the width of a head is the number of heads.
    heads = {"attention_head_dim": config.heads} if not ending else {"num_attention_heads": config.heads}
    model: nn.Module = getattr(diffusers, name)(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
        cross_attention_dim=config.context_width,
        **heads,
        **more,
    )
    return model
