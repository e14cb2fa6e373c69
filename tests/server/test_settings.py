"""Settings: where they come from, what is refused and in which words, and what is safe without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emo_live.engine.published import PublishedOptions
from emo_live.errors import BadInputError
from emo_live_server.settings import Settings, load

KEY = "an-api-key-of-24-letters"


def test_safe_without_any_settings() -> None:
    settings = load()
    assert (settings.host, settings.port, settings.loopback, settings.protected) == ("127.0.0.1", 8000, True, False)
    assert settings.hosts == ("localhost", "127.0.0.1", "[::1]")
    assert settings.address == "http://localhost:8000"
    assert settings.badge
    assert settings.cors_origins == ()


def test_arguments_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nsize = 256\nsteps = 3\ncors_origins = ["https://a.example"]\n[[api_keys]]\n'
                    f'key = "{KEY}"\nname = "ci"\nscopes = ["session:view"]\n')  # fmt: skip
    monkeypatch.setenv("EMO_LIVE_PORT", "2")
    monkeypatch.setenv("EMO_LIVE_SIZE", "512")
    settings = load(file, port=3)
    assert (settings.port, settings.size, settings.steps) == (3, 512, 3)
    assert settings.cors_origins == ("https://a.example",)
    assert (settings.api_keys[0].name, settings.api_keys[0].scopes) == ("ci", ("session:view",))


def test_the_environment_holds_lists_and_nested_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_LIVE_API_KEYS", f"{KEY}, another-{KEY}")
    monkeypatch.setenv("EMO_LIVE_ALLOWED_HOSTS", "a.example,b.example")
    monkeypatch.setenv("EMO_LIVE_ICE_SERVERS", '[{"urls": "turn:t.example", "username": "u", "credential": "c"}]')
    monkeypatch.setenv("EMO_LIVE_UDP_PORTS", "[50000, 50100]")
    settings = load()
    assert len(settings.api_keys) == 2
    assert settings.hosts == ("a.example", "b.example")
    assert settings.ice_servers[0].urls == ("turn:t.example",)
    assert settings.udp_ports == (50000, 50100)
    assert KEY not in repr(settings)
    assert "credential=SecretStr" in repr(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_listening_for_others_needs_a_key(host: str) -> None:
    with pytest.raises(BadInputError, match="EMO_LIVE_API_KEYS"):
        load(host=host)
    assert load(host=host, api_keys=KEY).hosts == ()
    assert load(host=host, jwt_secret="x" * 32).protected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_listening_for_oneself_does_not(host: str) -> None:
    assert load(host=host).loopback


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": 70_000}, "setting port (EMO_LIVE_PORT)"),
        ({"port": "http"}, "setting port (EMO_LIVE_PORT)"),
        ({"size": 300}, "setting size"),
        ({"api_keys": "short"}, "at least 16"),
        ({"jwt_secret": "short"}, "at least 32"),
        ({"jwt_secret": "x" * 32, "jwt_public_key": "k.pem"}, "not both"),
        ({"cors_origins": "*"}, "an origin reads"),
        ({"cors_origins": "https://a.example/path"}, "an origin reads"),
        ({"rate_create": "often"}, "rate_create"),
        ({"ice_servers": [{"urls": "http://x"}]}, "stun:"),
        ({"ice_servers": [{"urls": []}]}, "stun:"),
        ({"relay_only": True}, "TURN"),
        ({"udp_ports": (5, 4)}, "UDP ports"),
        ({"tls_key": "k.pem"}, "belong together"),
        ({"hots": "x"}, "there is no setting hots"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        load(**given)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "short" not in message, "a value may be a secret"


@pytest.mark.parametrize("text", ["port =", "port = 1\nport = 2", "[[["])
def test_a_broken_file_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(BadInputError) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_names_that_mean_nothing_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "server.toml"
    file.write_text("prot = 1")
    with pytest.raises(BadInputError, match="there is no setting prot"):
        load(file)
    monkeypatch.setenv("EMO_LIVE_CACHE", str(tmp_path))
    monkeypatch.setenv("EMO_LIVE_WEIGHTS_ROOT", str(tmp_path))
    assert load().weights is None, "folders of all commands are no settings of a server's"
    monkeypatch.setenv("EMO_LIVE_PROT", "1")
    with pytest.raises(BadInputError, match="EMO_LIVE_PROT"):
        load()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no settings file"):
        load(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({"port": 80}, "http://localhost:80"),
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"host": "0.0.0.0", "api_keys": KEY}, "http://localhost:8000"),
        ({"host": "10.0.0.1", "api_keys": KEY, "tls_certificate": "c", "tls_key": "k"}, "https://10.0.0.1:8000"),
    ],
)
def test_the_address_to_type(given: dict[str, Any], address: str) -> None:
    assert load(**given).address == address


def test_every_setting_is_documented(repository: Path) -> None:
    text = (repository / "docs/server.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in text] == []


def test_an_engine_with_published_weights_has_its_own_limits_and_options() -> None:
    settings = load(engine="hallo", size=384, steps=20, guidance=2.0, vae="taesd", device="cpu")
    assert settings.chosen_engine == PublishedOptions("hallo", steps=20, guidance=2.0, vae="taesd", device="cpu")
    assert settings.sizes == (256, 384, 512)
    for given, words in (
        ({"size": 384}, "setting size must be 256 or 512"),
        ({"steps": 20}, "setting steps must be 1 to 8"),
        ({"guidance": 2.0}, "setting engine 'tiny' has no guidance: choose one of hallo"),
        ({"engine": "hallo", "size": 100}, "multiple of 64"),
        ({"engine": "hallo", "sampler": "euler"}, "use ddim, lcm, tcd, segment"),
    ):
        with pytest.raises(BadInputError, match=words):
            load(**given)
