"""The published checkpoints that emo_live reads: repositories on the hub, files, sizes, licences. No torch, no network.

Only files that a model needs are named; of other contents of these repositories (face recognition for non-commercial
use, super-resolution, whole Stable Diffusion models that `net.pth` overwrites) nothing is ever fetched. Sizes are what
the hub lists, or follow from the number of weights, and are for the list only. Sources: docs/weights.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from emo_live.weights.manifest import Model

if TYPE_CHECKING:
    from emo_live.config import EmoConfig

Part = Literal["emo", "sound", "vae", "taesd"]

OPENRAIL = (
    "Its networks grew out of Stable Diffusion 1.x, which came under CreativeML OpenRAIL-M: those restrictions of use "
    "may apply to derived weights too, whatever the card of this checkpoint says. Read both before you ship it."
)


@dataclass(frozen=True, slots=True)
class Download:
    """One part of a model on the hub. files: what conversion calls a file -> its path in the repository."""

    repo: str
    files: Mapping[str, str]
    licence: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Published:
    """title: one line for the list. notes: what a user should know before using the weights."""

    name: str
    model: Model
    title: str
    parts: Mapping[Part, Download]
    notes: tuple[str, ...] = field(default=(OPENRAIL,))

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts.values())

    @property
    def emo_files(self) -> tuple[str, ...]:
        """What the files of the networks themselves are called: net, or EchoMimic's four."""
        return tuple(self.parts["emo"].files)

    def config(self) -> EmoConfig:
        """Needs torch."""
        from emo_live.models.checkpoints.echomimic import ECHOMIMIC
        from emo_live.models.checkpoints.hallo import HALLO, JOYHALLO

        return {"hallo": HALLO, "hallo2": HALLO, "joyhallo": JOYHALLO, "echomimic": ECHOMIMIC}[self.model]


_DIFFUSERS_FILES = {"config.json": "config.json", "weights": "diffusion_pytorch_model.safetensors"}

_VAE = Download("stabilityai/sd-vae-ft-mse", _DIFFUSERS_FILES, "MIT", 334_700_000)
_TAESD = Download("madebyollin/taesd", _DIFFUSERS_FILES, "MIT", 9_800_000)
_WAV2VEC = Download(
    "facebook/wav2vec2-base-960h",
    {"config.json": "config.json", "weights": "model.safetensors"},
    "Apache-2.0",
    377_700_000,
)
_CHINESE_WAV2VEC = Download(
    "TencentGameMate/chinese-wav2vec2-base",
    {"config.json": "config.json", "weights": "pytorch_model.bin"},
    "MIT",
    380_300_000,
)
_HALF_OF_HALLO_BYTES = 4_850_000_000


def _echomimic(name: str, title: str, suffix: str) -> Published:
    repo = "BadToBest/EchoMimic"
    files = {
        "reference_unet": "reference_unet.pth",
        "denoising_unet": f"denoising_unet{suffix}.pth",
        "motion_module": f"motion_module{suffix}.pth",
        "face_locator": "face_locator.pth",
    }
    whisper = Download(repo, {"weights": "audio_processor/whisper_tiny.pt"}, "MIT", 151_000_000)
    emo = Download(repo, files, "Apache-2.0", 8_484_000_000)
    research = "Its authors' page says that it is meant for academic research."
    return Published(
        name,
        "echomimic",
        title,
        {"emo": emo, "sound": whisper, "vae": _VAE, "taesd": _TAESD},
        (OPENRAIL, research),
    )


def _hallo(name: str, model: Model, title: str, emo: Download, sound: Download, *notes: str) -> Published:
    return Published(name, model, title, {"emo": emo, "sound": sound, "vae": _VAE, "taesd": _TAESD}, (OPENRAIL, *notes))


_ALL = (
    _hallo(
        "hallo",
        "hallo",
        "Hallo: closest to EMO of the open ones, English",
        Download("fudan-generative-ai/hallo", {"net": "hallo/net.pth"}, "MIT", _HALF_OF_HALLO_BYTES),
        _WAV2VEC,
    ),
    _hallo(
        "hallo2",
        "hallo2",
        "Hallo2: the same networks, trained for long videos",
        Download("fudan-generative-ai/hallo2", {"net": "hallo2/net.pth"}, "MIT", _HALF_OF_HALLO_BYTES),
        _WAV2VEC,
    ),
    _hallo(
        "joyhallo",
        "joyhallo",
        "JoyHallo: Hallo for Mandarin, one shared audio reader",
        Download("jdh-algo/JoyHallo-v1", {"net": "net.pth"}, "MIT (of the code)", 4_750_000_000),
        _CHINESE_WAV2VEC,
        "Its code is under the MIT licence; what its weights are under, only their page on the hub says.",
    ),
    _echomimic("echomimic", "EchoMimic: 30 steps with guidance", ""),
    _echomimic("echomimic-acc", "EchoMimic, accelerated: 6 steps without guidance", "_acc"),
)

CATALOGUE: Mapping[str, Published] = {model.name: model for model in _ALL}
