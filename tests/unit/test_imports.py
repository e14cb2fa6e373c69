"""Imports point one way (docs/architecture.md, section 3), heavy packages have their places, importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "emo_live"

LEAVES = {"types", "errors", "events", "config", "config_dict", "metrics", "hardware", "samples", "folders"}

# What each part may import besides itself and the leaves.
ALLOWED: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "audio": set(),
    "inference": set(),
    "media": {"avatar", "face", "audio"},
    "models": set(),
    "weights": {"models"},
    "face": {"inference"},
    "avatar_file": {"face"},
    "avatar": {"face", "avatar_file"},
    "transport": {"media"},
    "engine": {"models", "weights", "avatar", "audio", "face", "media", "inference"},
    "render": {"engine", "audio", "media", "avatar", "face", "transport"},
    "conversation": {"engine", "audio", "media"},
    "speech": {"conversation", "audio"},
    "session": {"speech", "conversation", "engine", "audio", "media", "avatar"},
    "bench": {"render", "engine", "audio", "media", "avatar", "transport"},
    "bench_models": {"models"},
    "bench_live": {"session", "engine", "audio", "media", "avatar"},
    "training": {"render", "transport", "models", "engine", "weights", "audio", "media", "face", "avatar"},
    "integrations": {"session", "render", "avatar", "transport", "media", "audio"},
    "__main__": {"cli"},
    "cli": {
        *("session", "render", "bench", "bench_live", "bench_models"),
        *("avatar", "transport", "media", "audio", "engine", "weights", "inference"),
    },
}
# The command line hands `train` over to an extra; nothing else may know of training.
EXCEPTIONS = {("cli/train.py", "training")}

# Where a package may be imported, as beginnings of paths below emo_live.
PLACES: dict[str, tuple[str, ...]] = {
    "torch": (
        "models/",
        "weights/",
        "training/",
        "engine/backend_torch",
        "engine/backend_latent",
        "engine/latent_generator",
        "bench_models/",
    ),
    "diffusers": ("models/", "bench_models/", "weights/library_plans", "training/", "engine/backend_torch"),
    "transformers": ("models/", "bench_models/", "weights/library_plans", "training/", "engine/backend_torch"),
    "safetensors": ("models/", "weights/", "training/", "engine/backend_torch", "engine/backend_latent"),
    "xformers": ("models/",),
    "huggingface_hub": ("weights/hub",),
    "einops": ("models/", "training/"),
    "cv2": ("training/",),
    "accelerate": ("training/",),
    "moderngl": ("training/",),
    "scipy": ("training/",),
    "soundfile": ("training/",),
    "tensorboard": ("training/",),
    "openvino": ("inference", "engine/backend_openvino", "training/export", "training/compress"),
    "typer": ("cli/", "training/stages"),
    "rich": ("cli/", "training/"),
    "av": ("audio/", "transport/", "training/", "cli/diagnosis"),
    "torchvision": (),
    "mediapipe": (),
    "aiortc": ("transport/",),
    **dict.fromkeys(
        ("fastapi", "uvicorn", "starlette", "pydantic", "structlog", "limits", "jwt", "prometheus_client"), ()
    ),
    "emo_live_server": ("cli/serve", "cli/bench", "cli/diagnosis"),
    "aioice": ("transport/rtc_",),
}

# Extras, and what takes long to load: never merely because somebody wrote `import emo_live`.
HEAVY = (
    "torch",
    "openvino",
    "cv2",
    "moderngl",
    "diffusers",
    "transformers",
    "scipy",
    "mediapipe",
    "accelerate",
    "safetensors",
)

PUBLIC = {
    *("Avatar", "render", "RenderOptions", "RenderResult", "AVPair", "Progress"),
    *(
        "AvatarSession",
        "EnginePool",
        "Controls",
        "Heard",
        "SessionStats",
        "Sink",
        "MemorySink",
        "Speaker",
        "AudioChunk",
    ),
    *("UtteranceStarted", "UtteranceFinished", "StateChanged", "Degraded", "Recovered", "StatsReport", "SessionClosed"),
    *("EmoLiveError", "BadInputError", "NotSupportedError", "NotReadyError", "EngineError"),
}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported_names(source: str, package: str) -> set[str]:
    """Dotted names of everything a module imports, at any depth: lazy imports have a direction too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def test_reads_every_kind_of_import() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h\n"
    assert imported_names(source, "emo_live.audio") == {"a.b", "c.d", "emo_live.audio.e", "emo_live.g.h"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_direction_and_places(file: Path) -> None:
    relative = file.relative_to(PACKAGE).as_posix()
    package = ".".join(("emo_live", *file.relative_to(PACKAGE).parent.parts))
    names = imported_names(file.read_text(), package)
    part = relative.split("/")[0].removesuffix(".py")
    if part != "__init__":
        assert part in ALLOWED, f"{part} has no rule yet: say in ALLOWED what it may import"
        parts = {name.split(".")[1] for name in names if name.startswith("emo_live.")}
        wrong = {other for other in parts - LEAVES - {part} - ALLOWED[part] if (relative, other) not in EXCEPTIONS}
        assert not wrong, f"{relative} must not import {sorted(wrong)}"
    for name in sorted({name.split(".")[0] for name in names} & PLACES.keys()):
        assert relative.startswith(PLACES[name]), f"{relative} must not import {name}; its places: {PLACES[name]}"


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_after("import types, sys; sys.modules['torch'] = types") == {"torch"}


@pytest.mark.parametrize(
    "statement", ["import emo_live", "from emo_live import *", "import emo_live.cli", "import emo_live.weights"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_public_names() -> None:
    import emo_live

    assert set(emo_live.__all__) - {"__version__"} == PUBLIC
    assert [name for name in sorted(PUBLIC) if not hasattr(emo_live, name)] == []
