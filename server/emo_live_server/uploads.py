"""Files that people send: counted while they arrive, judged by their first bytes, never kept as they came.

A portrait becomes an avatar of its own pixels, so that names, places and thumbnails inside the file (EXIF) are gone and
only the crop around the face is kept. Sound goes through a temporary file, because decoders want to seek.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import IO

import numpy as np
from fastapi import Request
from PIL import Image
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from emo_live.avatar import Avatar
from emo_live.errors import BadInputError
from emo_live_server.problems import Problem

UPLOAD_TIMEOUT_S = 120.0
_FORM_BYTES = 64_000  # what a form may add around its file
_BLOCK_BYTES = 1 << 20
_AVIF_BRANDS = (b"avif", b"avis")


def picture_format(data: bytes) -> str | None:
    """Pillow's name for the format that a file's first bytes (32 are enough) announce; None if it is not taken."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in _AVIF_BRANDS:
        return "AVIF"
    return None


def avatar_of(data: bytes, max_pixels: int) -> Avatar:
    """A worker's job: an avatar of a file's picture, without the picture around the face.

    Raises Problem 415 for what is not a picture, 413 for too many pixels; BadInputError as `Avatar.prepare`.
    """
    kind = picture_format(data)
    if kind is None:
        raise Problem(415, "the portrait must be a JPEG, PNG, WebP or AVIF file", reason="unsupported_picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[kind]) as header:
                pixels = header.width * header.height
    except Image.DecompressionBombError:
        pixels = max_pixels + 1
    except Exception:  # Pillow's readers raise nearly anything on data that only looks like theirs
        raise BadInputError("the portrait is damaged: save it again as JPEG or PNG") from None
    if pixels > max_pixels:
        raise Problem(
            413, f"the portrait may have {max_pixels / 1e6:.0f} megapixels: reduce it", reason="too_many_pixels"
        )
    return face_only(Avatar.prepare(data))


def face_only(avatar: Avatar) -> Avatar:
    """Without the picture around the crop: nobody sees it live, and it may have 50 MB."""
    return Avatar(avatar.portrait, avatar.landmarks, avatar.portrait, np.eye(2, 3))


def to_jpeg(avatar: Avatar) -> bytes:
    """The avatar's crop as JPEG, for previews."""
    buffer = io.BytesIO()
    Image.fromarray(avatar.portrait).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def receive_body(request: Request, limit_bytes: int) -> bytes:
    """The body of a request. Raises Problem: 413 as soon as it is longer than the limit, 408, 400."""
    async with _patience():
        return b"".join([chunk async for chunk in _capped(request, limit_bytes)])


async def receive_portrait(request: Request, limit_bytes: int) -> bytes:
    """The file in the form field `portrait`. Raises Problem: 413, 415, 400, 408."""
    async with _form_file(request, "portrait", limit_bytes) as file:
        return await file.read(limit_bytes)


async def receive_audio(request: Request, limit_bytes: int) -> Path:
    """A temporary file, now the caller's, with the form field `audio` or the body as it is.

    Raises Problem: 413, 415, 400, 408.
    """
    with tempfile.NamedTemporaryFile(prefix="emo-live-", suffix=".audio", delete=False) as target:
        try:
            await _store(request, limit_bytes, target)
        except BaseException:
            os.unlink(target.name)
            raise
    return Path(target.name)


async def _store(request: Request, limit_bytes: int, target: IO[bytes]) -> None:
    if _content_type(request) == "multipart/form-data":
        async with _form_file(request, "audio", limit_bytes) as file:
            while block := await file.read(_BLOCK_BYTES):
                await asyncio.to_thread(target.write, block)
        return
    async with _patience():
        async for chunk in _capped(request, limit_bytes):
            await asyncio.to_thread(target.write, chunk)
    if not target.tell():
        raise Problem(400, "there is no sound in the body", reason="empty_upload")


@contextlib.asynccontextmanager
async def _form_file(request: Request, field: str, limit_bytes: int) -> AsyncIterator[UploadFile]:
    if _content_type(request) != "multipart/form-data":
        raise Problem(415, f"send a form (multipart/form-data) with a file in the field {field}")
    parser = MultiPartParser(
        request.headers,
        _capped(request, limit_bytes + _FORM_BYTES),
        max_files=1,
        max_fields=4,
        max_part_size=_FORM_BYTES,
    )
    try:
        async with _patience():
            form = await parser.parse()
    except (MultiPartException, MultipartParseError, KeyError, ValueError):  # KeyError: a form without a boundary
        raise Problem(400, "the form cannot be read", reason="broken_form") from None
    try:
        file = form.get(field)
        if not isinstance(file, UploadFile):
            raise Problem(400, f"the form has no file in the field {field}", reason="broken_form")
        if file.size is None or file.size > limit_bytes:
            raise _too_big(limit_bytes)
        if file.size == 0:
            raise Problem(400, f"the file in the field {field} is empty", reason="empty_upload")
        yield file
    finally:
        await form.close()


async def _capped(request: Request, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body chunk by chunk; what comes after the limit is never read."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_big(limit_bytes)
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit_bytes:
                raise _too_big(limit_bytes)
            yield chunk
    except ClientDisconnect:
        raise Problem(400, "the upload broke off", reason="broken_upload") from None


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            yield
    except TimeoutError:
        raise Problem(408, f"the upload took longer than {UPLOAD_TIMEOUT_S:.0f} s") from None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _too_big(limit_bytes: int) -> Problem:
    size = f"{limit_bytes / 1e6:.0f} MB" if limit_bytes >= 1_000_000 else f"{limit_bytes} bytes"
    return Problem(413, f"at most {size} are taken", reason="too_big")
