"""Reading models through transformers and diffusers without what they print: progress bars, notes on config fields.

What matters of it (tensors that are missing) comes back as data and becomes our own error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Literal


@contextmanager
def silent(library: Literal["transformers", "diffusers"]) -> Iterator[None]:
    """While it lasts, the library prints errors only."""
    logging = import_module(f"{library}.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
