"""The tiny model on OpenVINO: the default backend, no torch installed.

Graphs ship with a dynamic number of frames; each window length gets its own static copy, because static graphs run
faster. Precision is what the CPU is good at: bf16 where it has the instructions for it, else f32.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from emo_live.avatar import Avatar
from emo_live.config import TINY
from emo_live.engine.base import Prepared, WindowInputs
from emo_live.engine.blas_threads import ONE_BLAS_THREAD
from emo_live.engine.locator_mask import locator_mask
from emo_live.engine.motion_prior import FaceMotion, MotionPrior
from emo_live.engine.pictures import MOUTH_SIZE, mouth_origin
from emo_live.engine.tiny_graphs import bank_inputs
from emo_live.errors import EngineError
from emo_live.hardware import return_freed_memory
from emo_live.inference import GraphCache, graph_name, inference_options, openvino_core
from emo_live.types import Float32

if TYPE_CHECKING:
    import openvino

T = TypeVar("T")
_AVATAR = ".avatar"  # ending of what is kept of an avatar
ASSETS = Path(__file__).parents[1] / "assets" / "tiny"
_COMPILE_TIMEOUT_S = 120
_KEPT_GRAPHS = ("denoise", "prepare")  # all others are compiled in a tenth of a second
_FRAME_INPUTS = {
    "shapes": (),
    "gestures": (),
    "denoise": ("noisy", "anchor"),
    "motion": ("z",),
    "paint": ("warped", "motion"),
}  # whose first dimension is T
_EXACT = (
    "shapes",
    "gestures",
    "motion",
)  # flow rounded to bf16 would be off by a tenth of a pixel at 512 px: still things would tremble
_NEIGHBOURS = TINY.emo.audio_projection.frames - 1
# What of a graph's inputs is longer than T: rows for T frames.
_LONGER: dict[str, dict[str, Callable[[int], int]]] = {
    "shapes": {"sound": lambda frames: (frames + _NEIGHBOURS) * TINY.emo.audio_projection.blocks},
    "gestures": {"noise": lambda frames: frames + TINY.gestures.reach},
    "denoise": {
        "sound": lambda frames: (frames + _NEIGHBOURS) * TINY.emo.audio_projection.blocks,
        "speed": lambda frames: frames + _NEIGHBOURS,
    },
}


class OpenVinoBackend:
    """threads: inference threads; precision: "f32", "bf16" or None for what this CPU does best.

    cache: a folder of ours where what was computed is kept for another process (None: nowhere). graphs: where what was
    compiled is (None: in the user's cache folder).
    """

    name = "openvino"

    def __init__(
        self,
        assets: Path = ASSETS,
        *,
        threads: int = 2,
        precision: str | None = None,
        cache: Path | None = None,
        graphs: GraphCache | None = None,
    ):
        if not (assets / "denoise.xml").exists():
            raise EngineError(f"the model files are missing in {assets}: reinstall emo-live")
        self.assets, self.threads = assets, threads
        self._cache, self._graphs = cache, graphs or GraphCache.of_user()
        self.precision = precision or self._best_precision()
        self._compiled: dict[tuple[str, int], Future[openvino.CompiledModel]] = {}
        self._unkept: dict[tuple[str, int], str] = {}  # compiled here, by their names in the cache
        self._lock = threading.Lock()
        self.prior = self._kept("prior", lambda: MotionPrior.load(assets / "prior.npz"))
        self._compiler = ThreadPoolExecutor(2, thread_name_prefix="emo-live-compile")
        self._open = True
        ONE_BLAS_THREAD.enter()

    def _best_precision(self) -> str:
        return "bf16" if "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"

    def warm(self, lengths: tuple[int, ...]) -> None:
        """Starts compiling for these window lengths in the background, in this order."""
        short, *others = lengths
        # The denoiser takes longest by far, so it goes first; the portrait is needed before the sound.
        longest = self._start("denoise", short)
        if self._cache is None or not any(self._cache.glob(f"*{_AVATAR}")):
            self._start("prepare", 1)
        self._start("hear", 1)
        for name in _FRAME_INPUTS:
            self._start(name, short)

        def go_on(_: object) -> None:
            """Nothing takes the machine from the first window."""
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                for frames in others:
                    for name in _FRAME_INPUTS:
                        self._start(name, frames)
                self._compiler.submit(return_freed_memory)  # compiling leaves some MB behind

        longest.add_done_callback(go_on)

    def is_warm(self, frames: int) -> bool:
        """Whether windows of that length run without compiling anything first."""
        with self._lock:
            return all((found := self._compiled.get((name, frames))) and found.done() for name in _FRAME_INPUTS)

    def wait(self, frames: int) -> None:
        """Returns when windows of that length, for which `warm` was called, can run. EngineError if they cannot."""
        with self._lock:
            needed = [self._compiled[name, frames] for name in _FRAME_INPUTS] + [self._compiled["hear", 1]]
        try:
            for model in needed:
                model.result(timeout=_COMPILE_TIMEOUT_S)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the model: {str(error).splitlines()[0]}") from error

    def _start(self, name: str, frames: int) -> Future[openvino.CompiledModel]:
        with self._lock:
            key = (name, frames)
            if key not in self._compiled:
                self._compiled[key] = self._compiler.submit(self._compile, name, frames)
                if name in _KEPT_GRAPHS:  # when whoever waits for it has gone on; closing waits for that, too
                    self._compiled[key].add_done_callback(partial(self._keep, key))
            return self._compiled[key]

    def _compile(self, name: str, frames: int) -> openvino.CompiledModel:
        options = inference_options(self.threads, "f32" if name in _EXACT else self.precision)
        if name not in _KEPT_GRAPHS:
            return openvino_core().compile_model(self._graph(name, frames), "CPU", options)
        files = [(self.assets / f"{name}.{ending}").read_bytes() for ending in ("xml", "bin")]
        kept = graph_name(options, *files, frames)
        network, known = self._graphs.network(kept, options, lambda: self._graph(name, frames))
        if not known:
            self._unkept[name, frames] = kept
        return network

    def _keep(self, key: tuple[str, int], compiled: Future[openvino.CompiledModel]) -> None:
        if kept := self._unkept.pop(key, None):
            self._graphs.keep(kept, compiled.result())

    def _graph(self, name: str, frames: int) -> openvino.Model:
        model = openvino_core().read_model(self.assets / f"{name}.xml")
        if name in _FRAME_INPUTS:
            shapes: dict[str, list[int]] = {}
            for port in model.inputs:
                key, shape = port.any_name, port.partial_shape
                rest = [shape[i].get_length() for i in range(1, len(shape))]
                if key in _FRAME_INPUTS[name]:
                    shapes[key] = [frames, *rest]
                elif longer := _LONGER.get(name, {}).get(key):
                    shapes[key] = [longer(frames), *rest]
            model.reshape(shapes)
        return model

    def _run(self, name: str, frames: int, inputs: dict[str, Any]) -> Any:
        try:
            return self._start(name, frames).result(timeout=_COMPILE_TIMEOUT_S)(inputs)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {name}: {str(error).splitlines()[0]}") from error

    def _kept(self, name: str, make: Callable[[], T]) -> T:
        """What another process left in the cache, or `make` and leave it there."""
        if self._cache is None:
            return make()
        with contextlib.suppress(FileNotFoundError):
            kept: T = pickle.loads((self._cache / name).read_bytes())
            return kept
        made, part = make(), self._cache / f"{name}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk costs time, not the session
            part.write_bytes(pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
            part.replace(self._cache / name)
        return made

    def prepare(self, avatar: Avatar) -> Prepared:
        features = self._kept(avatar.id + _AVATAR, lambda: self._features(avatar))
        face = FaceMotion(self.prior, avatar.landmarks)
        return Prepared(avatar, avatar.portrait, mouth_origin(avatar.landmarks), face, features)

    def _features(self, avatar: Avatar) -> dict[str, Any]:
        portrait = avatar.portrait.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        x, y = mouth_origin(avatar.landmarks)
        result = self._run(
            "prepare",
            1,
            {
                "portrait": portrait,
                "mouth": np.ascontiguousarray(portrait[:, :, y : y + MOUTH_SIZE, x : x + MOUTH_SIZE]),
                "mask": locator_mask(avatar.landmarks, TINY.mask_size)[None],
            },
        )
        features = {key: result[key].copy() for key in (*bank_inputs(), "face", "inside")}
        with self._lock:
            self._compiled.pop(("prepare", 1), None)  # 130 MB that are needed once per avatar
        return features

    def hear(self, mel: Float32) -> Float32:
        out: Float32 = self._run("hear", 1, {"mel": mel[None]})[0][0]
        return out

    def shapes(self, sound: Float32) -> Float32:
        frames = len(sound) // TINY.emo.audio_projection.blocks - TINY.emo.audio_projection.frames + 1
        out: Float32 = self._run("shapes", frames, {"sound": sound})[0]
        return out.copy()

    def gestures(self, noise: Float32, speed: float) -> Float32:
        frames = len(noise) - TINY.gestures.reach
        inputs = {"noise": noise, "speed": np.array([speed], np.float32)}
        out: Float32 = self._run("gestures", frames, inputs)[0]
        return out.copy()

    def denoise(self, avatar: Prepared, noisy: Float32, timestep: int, given: WindowInputs) -> Float32:
        inputs = {
            "noisy": noisy,
            "timestep": np.array([timestep]),
            "motion": given.motion,
            "anchor": given.anchor,
            "sound": given.sound,
            "speed": given.speed,
        }
        inputs.update({key: avatar.features[key] for key in bank_inputs()})
        out: Float32 = self._run("denoise", len(noisy), inputs)[0]
        return out.copy()

    def motion(self, avatar: Prepared, latents: Float32) -> Float32:
        out: Float32 = self._run("motion", len(latents), {"z": latents, "reference": avatar.features["face"]})[0]
        return out.copy()

    def paint(self, avatar: Prepared, warped: Float32, motion: Float32) -> Float32:
        inputs = {"warped": warped, "motion": motion, "reference": avatar.features["inside"]}
        out: Float32 = self._run("paint", len(warped), inputs)[0]
        return out.copy()

    def close(self) -> None:
        """Frees the model; may be called twice."""
        if self._open:
            self._open = False
            ONE_BLAS_THREAD.leave()
        self._compiler.shutdown(wait=True, cancel_futures=True)
        self._compiled.clear()
