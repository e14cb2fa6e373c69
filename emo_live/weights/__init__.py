"""Published checkpoints on this machine: catalogue, download, conversion, checks. Importing it needs no torch."""

from emo_live.types import ModelFolder
from emo_live.weights.folder import default_root, open_model

__all__ = ["ModelFolder", "default_root", "open_model"]
