"""The running server: signals, addresses, failures; and the command that starts it."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_parts import FakePool, FakeRtc, FakeSession
from fakes import bundled_avatar
from waiting import until

from emo_live.cli import main
from emo_live.errors import BadInputError
from emo_live_server.app import create_app
from emo_live_server.run import Server, serve
from emo_live_server.settings import load

DAY = datetime.timedelta(days=1)


def fake_app(**given: Any) -> Any:
    app = create_app(load(port=0, **given), pool=FakePool(), rtc=FakeRtc(), open_session=FakeSession)
    next(iter(app.state.context.avatars._faces.values())).avatar = bundled_avatar()
    return app


async def test_sigterm_lets_running_sessions_go_on() -> None:
    app = fake_app(drain_s=10)
    addresses: list[str] = []
    server = Server(app, app.state.context.settings, addresses.append)
    task = asyncio.create_task(server.serve())
    await until(lambda: addresses and app.state.context.ready)
    async with httpx.AsyncClient(base_url=addresses[0]) as client:
        session = (await client.post("/v1/sessions")).json()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: app.state.context.sessions.draining)
        refused = await client.post("/v1/sessions")
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get(f"/v1/sessions/{session['id']}")).status_code == 200
        assert not task.done()
        await client.delete(f"/v1/sessions/{session['id']}")
    async with asyncio.timeout(5):
        await task
    assert not server.interrupted


async def test_a_second_signal_does_not_wait() -> None:
    app = fake_app(drain_s=3600)
    addresses: list[str] = []
    server = Server(app, app.state.context.settings, addresses.append)
    task = asyncio.create_task(server.serve())
    await until(lambda: addresses and app.state.context.ready)
    async with httpx.AsyncClient(base_url=addresses[0]) as client:
        await client.post("/v1/sessions")
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: app.state.context.sessions.draining)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await task


async def test_ctrl_c_ends_it_at_once() -> None:
    app = fake_app(drain_s=3600)

    def started(address: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async with asyncio.timeout(10):
        assert await serve(app, app.state.context.settings, started) is True


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = fake_app()
        with pytest.raises(BadInputError, match="--port"):
            await serve(app, app.state.context.settings.model_copy(update={"port": port}))


async def test_a_server_that_cannot_get_ready_ends() -> None:
    settings = load(port=0, portrait=Path("missing.jpg"))
    app = create_app(settings, pool=FakePool(), rtc=FakeRtc(), open_session=FakeSession)
    async with asyncio.timeout(20):
        with pytest.raises(BadInputError, match=r"missing\.jpg"):
            await serve(app, settings)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Settings that the command would have served with; nothing listens."""
    calls: list[Any] = []

    async def fake_serve(app: Any, settings: Any, on_started: Any = None) -> bool:
        on_started(settings.address)
        calls.append(settings)
        return len(calls) > 1

    monkeypatch.setattr("emo_live_server.run.serve", fake_serve)
    monkeypatch.setattr("emo_live_server.logs.configure", lambda level: None)
    return calls


def test_the_command_hands_its_options_on(served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "8123", "--size", "256", "--engine", "pattern", "--no-greet"]) == 0
    (settings,) = served
    assert (settings.port, settings.size, settings.engine, settings.greet) == (8123, 256, "pattern", False)
    assert "http://localhost:8123" in capsys.readouterr().out
    assert main(["serve", "--quiet"]) == 130, "the second time it says that Ctrl-C ended it"
    assert capsys.readouterr().out == ""


def test_the_page_is_opened(served: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    assert main(["serve", "--open"]) == 0
    assert opened == ["http://localhost:8000"]
    assert "no browser" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "EMO_LIVE_API_KEYS"),
        (["--port", "99999"], "setting port"),
        (["--config", "missing.toml"], "no settings file"),
        (["--size", "300"], "256 or 512"),
        (["--engine", "steam"], "steam"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(
    served: list[Any], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert served == []


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve"]) == 2
    assert 'pip install "emo-live[server]"' in capsys.readouterr().err


def test_the_protocol_of_the_socket_does_no_io() -> None:
    code = (
        "import sys, emo_live.transport.realtime\n"
        "print(*sorted({'asyncio', 'socket', 'fastapi', 'websockets'} & set(sys.modules)))"
    )
    source = Path(sys.modules["emo_live.transport.realtime"].__file__ or "").read_text()
    assert "asyncio" not in source
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "fastapi" not in run.stdout
    assert "websockets" not in run.stdout


async def test_https(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    app = fake_app(tls_certificate=certificate, tls_key=key)
    addresses: list[str] = []
    server = Server(app, app.state.context.settings, addresses.append)
    task = asyncio.create_task(server.serve())
    await until(lambda: addresses)
    assert addresses[0].startswith("https://localhost:")
    trust = ssl.create_default_context(cafile=certificate)
    async with httpx.AsyncClient(base_url=addresses[0], verify=trust) as client:
        reply = await client.get("/healthz")
        assert reply.headers["strict-transport-security"].startswith("max-age=")
    server.should_exit = True
    await task


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return folder / "cert.pem", folder / "key.pem"
