"""Who may do what: keys, tokens, scopes, hosts, origins; headers that protect; logs that tell nothing."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from fake_parts import OFFER, SDP, running

from emo_live_server import logs
from emo_live_server.guard import content_security_policy

KEY, VIEW_KEY = "an-api-key-of-24-letters", "a-viewers-key-of-24-letters"
SECRET = "a secret of thirty-two bytes or more"
KEYS = ({"key": KEY}, {"key": VIEW_KEY, "name": "viewer", "scopes": ("session:view",)})


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def token(secret: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {"aud": "emo_live", "exp": time.time() + 60, "sub": "ann", "scope": "session:create", **changes}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, algorithm)


@pytest.mark.parametrize(
    ("method", "path", "status", "view_status"),
    [
        ("POST", "/v1/sessions", 201, 403),
        ("GET", "/v1/avatars", 200, 200),
        ("POST", "/v1/avatars", 415, 403),
        ("GET", "/metrics", 200, 403),
    ],
)
async def test_keys_have_scopes(method: str, path: str, status: int, view_status: int) -> None:
    async with running(api_keys=KEYS) as server:
        for key, expected in ((None, 401), ("wrong", 401), (KEY, status), (VIEW_KEY, view_status)):
            reply = await server.http.request(method, path, headers=bearer(key) if key else {})
            assert reply.status_code == expected, (key, reply.text)
            if expected in (401, 403):
                assert reply.headers["www-authenticate"].startswith("Bearer")
                assert "wrong" not in reply.text


async def test_viewers_may_watch() -> None:
    async with running(api_keys=KEYS) as server:
        reply = await server.http.post("/whep/default", content=OFFER, headers={**SDP, **bearer(VIEW_KEY)})
        assert reply.status_code == 201


async def test_open_to_everybody() -> None:
    async with running(api_keys=KEYS) as server:
        for path in ("/healthz", "/readyz", f"/v1/avatars/{server.context.avatars.default}/portrait.jpg"):
            assert (await server.http.get(path)).status_code == 200


async def test_the_configuration_keeps_its_secrets() -> None:
    ice = [{"urls": "turn:t.example", "username": "u", "credential": "very secret"}]
    async with running(api_keys=KEYS, ice_servers=ice) as server:
        stranger = await server.http.get("/v1/config")
        assert (stranger.json()["ice_servers"], stranger.json()["auth_required"]) == ([], True)
        known = (await server.http.get("/v1/config", headers=bearer(KEY))).json()
        assert known["ice_servers"] == [{"urls": ["turn:t.example"], "username": "u", "credential": "very secret"}]
        assert (known["ai_generated"], known["badge"], known["sizes"]) == (True, True, [256, 512])
        assert (await server.http.get("/v1/config", headers=bearer("wrong"))).status_code == 401


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 201),
        ({"scope": None, "scopes": ["session:create"]}, 201),
        ({"scope": "session:view session:create"}, 201),
        ({"scope": "session:view"}, 403),
        ({"scope": None}, 403),
        ({"aud": "another"}, 401),
        ({"aud": None}, 401),
        ({"exp": 1}, 401),
        ({"exp": None}, 401),
        ({"nbf": 9e9}, 401),
        ({"secret": "another secret of thirty-two bytes.."}, 401),
    ],
)
async def test_tokens(changes: dict[str, Any], status: int) -> None:
    async with running(jwt_secret=SECRET) as server:
        reply = await server.http.post("/v1/sessions", headers=bearer(token(**changes)))
        assert reply.status_code == status, reply.text


async def test_tokens_without_a_signature_are_nothing() -> None:
    async with running(jwt_secret=SECRET) as server:
        for forged in (token(None, "none"), "a.b.c", "x" * 5000):
            assert (await server.http.post("/v1/sessions", headers=bearer(forged))).status_code == 401


async def test_tokens_of_an_issuer_with_a_key_pair(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    async with running(jwt_public_key=tmp_path / "public.pem", jwt_issuer="me") as server:
        good = token(key, "EdDSA", iss="me")
        assert (await server.http.post("/v1/sessions", headers=bearer(good))).status_code == 201
        for bad in (token(key, "EdDSA", iss="you"), token(key, "EdDSA"), token(public.decode()[:64], iss="me")):
            assert (await server.http.post("/v1/sessions", headers=bearer(bad))).status_code == 401


async def test_guessing_keys_is_slowed_down() -> None:
    async with running(api_keys=KEYS) as server:
        statuses = [(await server.http.get("/v1/avatars", headers=bearer(f"guess-{i}"))).status_code for i in range(40)]
        assert statuses[0] == 401
        assert statuses[-1] == 429


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:9", 200), ("[::1]:8000", 200), ("LOCALHOST", 200),
     ("evil.example", 421), ("localhost.evil.example", 421), ("", 421)],
)  # fmt: skip
async def test_names_that_are_not_ours(host: str, status: int) -> None:
    """DNS rebinding: a page whose own name suddenly means 127.0.0.1."""
    async with running() as server:
        assert (await server.http.get("/v1/config", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", None, 201),
        ("POST", "http://localhost", 201),
        ("POST", "https://friend.example", 201),
        ("POST", "https://evil.example", 403),
        ("POST", "null", 403),
        ("GET", "https://evil.example", 404),
    ],
)
async def test_pages_that_are_not_ours(method: str, origin: str | None, status: int) -> None:
    async with running(cors_origins="https://friend.example") as server:
        reply = await server.http.request(method, "/v1/sessions", headers={"Origin": origin} if origin else {})
        assert reply.status_code == status
        friend = origin if origin == "https://friend.example" else None
        assert reply.headers.get("access-control-allow-origin") == friend


async def test_headers_that_protect_the_browser() -> None:
    async with running() as server:
        for path in ("/", "/v1/config", "/nothing/here", "/healthz"):
            reply = await server.http.get(path)
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["x-frame-options"] == "DENY"
            assert reply.headers["referrer-policy"] == "no-referrer"
            assert reply.headers["x-ai-generated"] == "true"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["cache-control"] in ("no-store", "no-cache")
        refused = await server.http.get("/", headers={"Host": "evil.example"})
        assert "content-security-policy" in refused.headers


def test_the_policy_lets_the_page_work_and_nothing_else() -> None:
    policy = dict(part.strip().split(" ", 1) for part in content_security_policy("localhost:8000").split(";"))
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"].split() == ["'self'", "blob:", "ws://localhost:8000", "wss://localhost:8000"]
    assert "blob:" in policy["media-src"]
    assert "unsafe" not in str(policy)
    assert "*" not in str(policy)
    assert "evil" not in content_security_policy("evil; script-src *")


async def test_the_page_is_served() -> None:
    async with running() as server:
        page = await server.http.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        script = await server.http.get("/app.js")
        assert script.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/v1/config", 405)])
async def test_errors_of_the_framework_are_problems_too(method: str, path: str, status: int) -> None:
    async with running() as server:
        reply = await server.http.request(method, path)
        assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")


async def test_a_bug_says_nothing_to_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as server:
        monkeypatch.setattr(server.context.avatars, "check", lambda name: 1 / 0)
        reply = await server.http.post("/v1/sessions")
        assert (reply.status_code, reply.headers["content-type"]) == (500, "application/problem+json")
        assert "division" not in reply.text


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


async def test_logs_are_json_and_tell_nothing(log: io.StringIO) -> None:
    async with running(api_keys=KEYS) as server:
        reply = await server.http.post("/v1/sessions", headers=bearer(KEY))
        session = reply.json()["id"]
        await server.http.post(f"/v1/sessions/{session}/say", json={"text": "my private words"})
        await server.http.get(f"/v1/sessions/{session}?name=private", headers=bearer("private"))
        logging.getLogger("emo_live.session").warning("a library's %s", "message")
        await server.http.delete(f"/v1/sessions/{session}")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert all({"event", "level", "timestamp", "logger"} <= line.keys() for line in lines)
    for secret in ("private", session, KEY, "127.0.0.1"):
        assert secret not in log.getvalue()
    said = next(line for line in lines if line.get("route") == "/v1/sessions/{id}/say")
    began = next(line for line in lines if line["event"] == "session begins")
    assert said["session"] == began["session"] == logs.fingerprint(session)
    assert (said["status"], said["method"]) == (202, "POST")
    assert any(line["event"] == "a library's message" for line in lines)
