"""Draws one puppet at a time off screen with OpenGL (EGL; a software driver will do).

Knows nothing of motion: it is given vertices. One thread, one context. Canvases have row 0 at the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emo_live.errors import NotSupportedError
from emo_live.training.puppets import anatomy, background, shaders
from emo_live.training.puppets.head import Head
from emo_live.training.puppets.puppet import Puppet
from emo_live.training.puppets.view import PORTRAIT_PX, View
from emo_live.types import Float32, UInt8

DARK_GAP = (
    0.025  # no light falls through lips that are less apart, all of it above twice this; shares of the mouth's width
)
TRACE_SAMPLES = 2  # a side, for each pixel of a flow


@dataclass(frozen=True, slots=True)
class Scene:
    """Vertices of one frame: points (V, 2) px of the portrait and depth (V,) cm; grid (N, 2) px of the background."""

    points: Float32
    depth: Float32
    grid: Float32


class Renderer:
    def __init__(self, head: Head):
        self._head = head
        self._gl = _create_context()
        self._paint = self._gl.program(shaders.VERTEX, shaders.PAINT)
        self._trace = self._gl.program(shaders.VERTEX, shaders.TRACE)
        order = {"background": background.triangles(), "inside": head.inside, "skin": head.skin}
        self._order = {name: self._gl.buffer(faces.astype(np.int32)) for name, faces in order.items()}
        self._canvases: dict[tuple[int, str], Any] = {}
        self._loaded: list[Any] = []

    def close(self) -> None:
        self._gl.release()

    def load(self, puppet: Puppet) -> None:
        """Makes a puppet the one that is drawn."""
        with self._gl:
            self._load(puppet)

    def _load(self, puppet: Puppet) -> None:
        for thing in self._loaded:
            thing.release()
        gl, nodes = self._gl, background.nodes()
        self._texture = gl.texture((PORTRAIT_PX, PORTRAIT_PX), 4, np.ascontiguousarray(puppet.texture))
        self._texture.repeat_x = self._texture.repeat_y = False
        self._vertices = gl.buffer(reserve=12 * len(puppet.points))
        self._nodes = gl.buffer(reserve=12 * len(nodes))
        head_looks = self._looks(puppet.texture_points, puppet.colours)
        grid_looks = self._looks(nodes, np.ones((len(nodes), 4), np.float32))
        self._loaded = [self._texture, self._vertices, self._nodes, head_looks, grid_looks]
        self._layers = {}
        for program in (self._paint, self._trace):
            for name, order in self._order.items():
                moving, looks = (self._nodes, grid_looks) if name == "background" else (self._vertices, head_looks)
                content = [(moving, "3f", "position"), (looks, "2f 4f", "source", "colour")]
                self._layers[program, name] = gl.vertex_array(program, content, order)
        self._loaded += self._layers.values()

    def _looks(self, source_px: Float32, colours: Float32) -> Any:
        """A buffer of what a vertex keeps from frame to frame."""
        return self._gl.buffer(np.hstack([source_px / PORTRAIT_PX, colours]).astype(np.float32))

    def paint(self, scene: Scene, view: View, size: int) -> UInt8:
        """(size, size, 3) colours."""
        # Samples as fine as the portrait's pixels, and never fewer than 2 a side.
        samples = max(2, round(PORTRAIT_PX / (size * view.scale)))
        drawn = np.frombuffer(self._draw(self._paint, "f1", size * samples, scene, view), np.uint8)
        total = _bin(drawn.reshape(size * samples, -1, 4)[..., :3], samples, np.uint16)
        return np.asarray((total + samples**2 // 2) // samples**2, np.uint8)

    def trace(self, scene: Scene, view: View, size: int) -> Float32:
        """(size, size, 3) where pixels come from: x, y in shares of the portrait times their part of the pixel; it."""
        side = size * TRACE_SAMPLES
        drawn = np.frombuffer(self._draw(self._trace, "f4", side, scene, view), np.float32)
        total = _bin(drawn.reshape(side, side, 4), TRACE_SAMPLES, np.float32)
        return np.asarray(total[..., :3] / np.float32(TRACE_SAMPLES**2))

    def _canvas(self, side: int, kind: str) -> Any:
        if (side, kind) not in self._canvases:
            texture, depth = self._gl.texture((side, side), 4, dtype=kind), self._gl.depth_renderbuffer((side, side))
            self._canvases[side, kind] = self._gl.framebuffer([texture], depth)
        return self._canvases[side, kind]

    def _draw(self, program: Any, kind: str, side: int, scene: Scene, view: View) -> bytes:
        """(side, side, 4) of a kind of number: what a program makes of the scene."""
        points = view.shares(scene.points)
        depth = scene.depth + self._head.setback
        depth -= depth.min()
        with self._gl:  # this context, whoever drew last
            self._vertices.write(_clip_space(points, depth * (1.6 / depth.max()) - 0.8))
            self._nodes.write(_clip_space(view.shares(scene.grid), np.zeros(len(scene.grid), np.float32)))
            self._set_mouth(program, points[self._head.landmarks], side)
            canvas = self._canvas(side, kind)
            canvas.use()
            canvas.clear(0, 0, 0, 1)
            self._texture.use(0)
            self._draw_layers(program)
            return bytes(canvas.read(components=4, dtype=kind))

    def _draw_layers(self, program: Any) -> None:
        import moderngl

        gl = self._gl
        gl.blend_func = moderngl.SRC_ALPHA, moderngl.ONE_MINUS_SRC_ALPHA
        gl.disable(moderngl.DEPTH_TEST | moderngl.BLEND)
        self._layers[program, "background"].render()
        gl.enable(moderngl.DEPTH_TEST)
        program["inside"].value = True
        self._layers[program, "inside"].render()
        program["inside"].value = False
        gl.enable(moderngl.BLEND)
        self._layers[program, "skin"].render()

    def _set_mouth(self, program: Any, marks: Float32, side: int) -> None:
        """Uniforms from the landmarks (68, 2) in shares of the view."""
        program["light"].value = _light_between(marks)
        program["inside"].value = False
        if program is self._paint:
            first, last = marks[list(anatomy.MOUTH_CORNERS)] * side
            program["middle"].value = tuple((first + last) / 2)
            program["half_width"].value = tuple((last - first) / 2)


def _light_between(marks: Float32) -> float:
    """0..1: how much light falls between the lips; nearly closed lips show darkness, not teeth."""
    gap = (marks[list(anatomy.LIPS_BELOW)] - marks[list(anatomy.LIPS_ABOVE)]).mean(0)
    first, last = marks[list(anatomy.MOUTH_CORNERS)]
    opening = np.linalg.norm(gap) / np.linalg.norm(last - first)
    return float(np.clip(opening / DARK_GAP - 1, 0, 1))


def _clip_space(points: Float32, depth: Float32) -> Float32:
    """(V, 2) shares, (V,) in -1..1 -> (V, 3). y stays down, so that row 0 of what is read back is the top."""
    clip = np.empty((len(points), 3), np.float32)
    np.multiply(points, 2, out=clip[:, :2])
    clip[:, :2] -= 1
    clip[:, 2] = depth
    return clip


def _bin(drawn: Any, samples: int, kind: type[np.generic]) -> Any:
    """(S n, S n, C) -> (S, S, C) sums over n x n samples."""
    rows = sum((drawn[i::samples] for i in range(1, samples)), drawn[::samples].astype(kind))
    return sum((rows[:, i::samples] for i in range(1, samples)), rows[:, ::samples])


def _create_context() -> Any:
    try:
        import moderngl
    except ImportError as error:
        raise NotSupportedError('drawing puppets needs moderngl: pip install "emo-live[train]"') from error
    options: dict[str, Any] = {"backend": "egl"}
    try:
        return moderngl.create_context(standalone=True, **options)
    except Exception as error:  # moderngl raises plain Exceptions
        hint = "on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri"
        raise NotSupportedError(f"drawing puppets needs OpenGL with EGL; {hint}") from error
