"""What can be asked of an engine, known before anything of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from emo_live.errors import BadInputError

MULTIPLE_PX = 64  # the VAE shrinks by 8, the denoiser's levels by 8 more
_LEAST_PX, _MOST_PX = 64, 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """sizes_px: sides of its pictures, None: any multiple of 64 from 64 to 1024. steps: denoising steps.

    start_s: how long it may take to load and to warm up.
    """

    sizes_px: tuple[int, ...] | None
    max_steps: int
    usual_steps: int
    start_s: float = 120.0

    def check(self, size: int, steps: int) -> None:
        self.check_size(size)
        self.check_steps(steps)

    def check_size(self, size: int) -> None:
        """Raise BadInputError unless square pictures of that size can be made."""
        if self.sizes_px is not None:
            if size not in self.sizes_px:
                raise BadInputError(f"size must be {' or '.join(map(str, self.sizes_px))}, not {size}")
        elif size % MULTIPLE_PX or not _LEAST_PX <= size <= _MOST_PX:
            raise BadInputError(
                f"size must be a multiple of {MULTIPLE_PX} from {_LEAST_PX} to {_MOST_PX} with this engine, not {size}"
            )

    def check_steps(self, steps: int) -> None:
        """Raise BadInputError unless the sampler can take that many steps."""
        if not 1 <= steps <= self.max_steps:
            raise BadInputError(f"steps must be 1 to {self.max_steps}, not {steps}")


TINY_LIMITS = Limits(sizes_px=(256, 512), max_steps=8, usual_steps=1)
