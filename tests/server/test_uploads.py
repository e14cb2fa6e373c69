"""Uploaded portraits: what is taken, what is refused and how, what is kept of them (nothing but the face)."""

from __future__ import annotations

import asyncio
import io
import os
from typing import Any

import numpy as np
import pytest
from fake_parts import Running, running
from fakes import PORTRAIT, bundled_avatar
from PIL import Image

from emo_live import samples
from emo_live.avatar import Avatar
from emo_live.errors import BadInputError
from emo_live_server import uploads
from emo_live_server.problems import Problem
from emo_live_server.uploads import avatar_of, picture_format

JPEG = PORTRAIT.read_bytes()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(width: int = 256, height: int = 256, kind: str = "PNG") -> bytes:
    return encoded(Image.new("RGB", (width, height), "grey"), kind)


async def post(server: Running, file: bytes, **sending: Any) -> Any:
    sending = sending or {"files": {"portrait": ("me and my home.jpg", file, "image/jpeg")}}
    return await server.http.post("/v1/avatars", **sending)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_formats_are_told_by_their_first_bytes(kind: str) -> None:
    assert picture_format(plain(kind=kind)[:32]) == kind


@pytest.mark.parametrize("data", [plain(kind="GIF"), plain(kind="BMP"), b"<svg>", b"%PDF-1.7", b"RIFF....WAVE", b""])
def test_other_formats_are_not_taken(data: bytes) -> None:
    assert picture_format(data) is None
    with pytest.raises(Problem) as caught:
        avatar_of(data, 1_000_000)
    assert caught.value.status == 415


def test_nothing_but_the_face_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "my address"
    wide = Image.new("RGB", (1600, 900), "grey")
    wide.paste(Image.open(PORTRAIT), (100, 100))
    data = encoded(wide, "JPEG", exif=exif, quality=95)
    assert b"my address" in data
    avatar = avatar_of(data, 64_000_000)
    assert avatar.portrait.shape == avatar.picture.shape == (512, 512, 3)
    np.testing.assert_array_equal(avatar.portrait, avatar.picture)
    jpeg = uploads.to_jpeg(avatar)
    assert b"my address" not in jpeg
    assert b"Exif" not in jpeg


@pytest.mark.parametrize("data", [plain(), plain(80, 80), JPEG[:2000], b"\xff\xd8\xff" + b"x" * 100])
def test_pictures_without_a_usable_face(data: bytes) -> None:
    with pytest.raises(BadInputError):
        avatar_of(data, 64_000_000)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(Problem) as caught:
        avatar_of(plain(1100, 1000), 1_000_000)
    assert caught.value.status == 413


async def test_an_upload_becomes_an_avatar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.avatars.avatar_of", lambda data, limit: bundled_avatar())
    async with running() as server:
        reply = await post(server, JPEG)
        assert reply.status_code == 201, reply.text
        made = reply.json()
        assert len(made["id"]) >= 22
        assert made["ai_generated"] is True
        assert "home" not in reply.text
        assert (await post(server, JPEG)).json() == made, "the same picture is the same avatar"
        listed = (await server.http.get("/v1/avatars")).json()
        assert [avatar["id"] for avatar in listed][-1] == made["id"]
        assert len(listed) == len(samples.portraits()) + 1
        preview = await server.http.get(made["portrait_url"])
        assert preview.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(preview.content)).size == (512, 512)
        assert (await server.session(avatar=made["id"]))["avatar"] == made["id"]


async def test_uploads_are_their_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_live_server.avatars.avatar_of", lambda data, limit: bundled_avatar())
    keys = [{"key": "key-of-ann-24-letters-ok", "name": "ann"}, {"key": "key-of-bob-24-letters-ok", "name": "bob"}]
    ann, bob = ({"Authorization": f"Bearer {key['key']}"} for key in keys)
    async with running(api_keys=keys) as server:
        made = (await post(server, b"", files={"portrait": ("a", JPEG)}, headers=ann)).json()
        assert made["id"] in (await server.http.get("/v1/avatars", headers=ann)).text
        assert made["id"] not in (await server.http.get("/v1/avatars", headers=bob)).text


async def test_old_uploads_go(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def another(data: bytes, limit: int) -> Avatar:
        portrait = rng.integers(0, 255, (512, 512, 3), np.uint8)
        return Avatar(portrait, bundled_avatar().landmarks, portrait, np.eye(2, 3))

    monkeypatch.setattr("emo_live_server.avatars.avatar_of", another)
    async with running(max_avatars=2) as server:
        ids = [(await post(server, JPEG)).json()["id"] for _ in range(2)]
        await server.session(avatar=ids[0])
        ids.append((await post(server, JPEG)).json()["id"])
        found = [(await server.http.post("/v1/sessions", json={"avatar": id})).status_code for id in ids]
        assert found == [201, 404, 201], "the one that was not used for longest"


@pytest.mark.parametrize(
    ("sending", "status"),
    [
        ({"content": JPEG, "headers": {"Content-Type": "image/jpeg"}}, 415),
        ({"content": JPEG, "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": b"--x\r\nrubbish", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"files": {"picture": ("a", JPEG)}}, 400),
        ({"data": {"portrait": "text"}, "files": {"b": ("a", b"x")}}, 400),
        ({"files": {"portrait": ("a", b"")}}, 400),
        ({"files": [("portrait", ("a", b"x")), ("portrait", ("b", b"x"))]}, 400),
        ({"data": {str(i): "x" for i in range(9)}, "files": {"portrait": ("a", b"x")}}, 400),
        ({"files": {"portrait": ("a", b"GIF89a")}}, 415),
        ({"files": {"portrait": ("a", plain())}}, 422),
        ({"files": {"portrait": ("a", os.urandom(10_000_001))}}, 413),
        ({"files": {"portrait": ("a", os.urandom(11_000_000))}}, 413),
    ],
)
async def test_uploads_that_are_refused(sending: dict[str, Any], status: int) -> None:
    async with running() as server:
        reply = await post(server, b"", **sending)
        assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json"), reply.text
        if status == 422:
            assert "no face found" in reply.json()["detail"]


async def test_an_endless_upload_is_cut_off_while_it_arrives() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="portrait"; filename="a"\r\n\r\n'
        while sent < 1000:
            sent += 1
            yield b"x" * 100_000

    async with running() as server:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        reply = await post(server, b"", content=endless(), headers=headers)
        assert reply.status_code == 413


async def test_a_slow_upload_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "UPLOAD_TIMEOUT_S", 0.05)

    async with running() as server:
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "POST", "path": "/v1/avatars", "query_string": b"", "root_path": "",
            "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")],
        }  # fmt: skip

        async def never() -> Any:
            await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            sent.append(message)

        await server.app(scope, never, send)
        assert sent[0]["status"] == 408


async def test_too_many_uploads() -> None:
    async with running(rate_upload="2/minute") as server:
        statuses = [(await post(server, b"GIF89a")).status_code for _ in range(3)]
        assert statuses == [415, 415, 429]
