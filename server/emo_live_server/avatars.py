"""The faces that can be shown: those that come with the package, the operator's own, and what people uploaded.

Uploads live in memory only and are known to their owner only; when there are too many, the least recently used one
goes. Finding faces is done one at a time on a thread of its own: the loop and the video encoders go on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from emo_live import samples
from emo_live.avatar import Avatar
from emo_live.errors import NotReadyError
from emo_live.hardware import return_freed_memory
from emo_live_server.problems import Problem
from emo_live_server.uploads import avatar_of, face_only, to_jpeg

T = TypeVar("T")

DEFAULT = "default"
_MAX_WAITING = 8


@dataclass(slots=True)
class _Face:
    """owner: None for faces that everybody may see. avatar: None until it is first wanted."""

    id: str
    name: str
    owner: str | None
    path: Path | None
    avatar: Avatar | None = None
    jpeg: bytes | None = None


class Avatars:
    """portrait: the operator's own picture or avatar file, which is then the default."""

    def __init__(self, portrait: Path | None, max_uploads: int, max_pixels: int) -> None:
        self._max_uploads, self._max_pixels = max_uploads, max_pixels
        self._worker = ThreadPoolExecutor(1, "emo-faces")
        self._waiting = 0
        self._faces: dict[str, _Face] = {}
        own = [("portrait", "Your portrait", portrait)] if portrait is not None else []
        bundled = [(path.stem, f"Portrait {i}", path) for i, path in enumerate(samples.portraits(), 1)]
        for id, name, path in (*own, *bundled):
            self._faces[id] = _Face(id, name, None, path)
        self.default = next(iter(self._faces))

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def listed(self, owner: str) -> list[dict[str, object]]:
        """What the API says of every face that somebody may use."""
        return [_described(face) for face in self._faces.values() if face.owner in (None, owner)]

    def check(self, id: str) -> str:
        """The id, `default` resolved. Raises Problem 404."""
        return self._find(id).id

    async def get(self, id: str) -> Avatar:
        """Raises Problem 404 for an unknown id, BadInputError for an operator's picture that cannot be used."""
        face = self._find(id)
        if face.avatar is None:
            path = face.path
            assert path is not None, "what was uploaded is prepared"
            face.avatar = await self._work(lambda: face_only(Avatar.open(path)))
        return face.avatar

    async def jpeg(self, id: str) -> bytes:
        """A preview, 512 px."""
        avatar, face = await self.get(id), self._find(id)
        if face.jpeg is None:
            face.jpeg = await self._work(lambda: to_jpeg(avatar))
        return face.jpeg

    async def add(self, data: bytes, owner: str) -> dict[str, object]:
        """An uploaded file as a new face. The id is a secret: whoever knows it may use it. Raises as avatar_of."""
        try:
            avatar = await self._work(lambda: avatar_of(data, self._max_pixels))
        finally:
            return_freed_memory()  # a large picture takes some hundred MB while its face is looked for
        for face in self._faces.values():
            if face.owner == owner and face.avatar is not None and face.avatar.id == avatar.id:
                return _described(face)
        uploaded = [face.id for face in self._faces.values() if face.owner is not None]
        for id in uploaded[: max(0, len(uploaded) + 1 - self._max_uploads)]:
            del self._faces[id]
        face = _Face(secrets.token_urlsafe(16), "Your picture", owner, None, avatar)
        self._faces[face.id] = face
        return _described(face)

    def _find(self, id: str) -> _Face:
        face = self._faces.get(self.default if id == DEFAULT else id)
        if face is None:
            raise Problem(404, "there is no such avatar", reason="no_avatar")
        if face.owner is not None:  # used again: last to go
            self._faces[face.id] = self._faces.pop(face.id)
        return face

    async def _work(self, job: Callable[[], T]) -> T:
        if self._waiting >= _MAX_WAITING:
            raise NotReadyError("too many portraits are being prepared: try again in some seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, job)
        finally:
            self._waiting -= 1


def _described(face: _Face) -> dict[str, object]:
    url = f"/v1/avatars/{face.id}/portrait.jpg"
    return {"id": face.id, "name": face.name, "portrait_url": url, "ai_generated": True}
