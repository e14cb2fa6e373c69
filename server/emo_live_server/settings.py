"""Everything that can be set about the server: EMO_LIVE_* in the environment, a TOML file, or arguments.

Arguments win over the environment, the environment over the file. Nested values of the environment are JSON, lists of
names may be separated by commas. The only module of the server that reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from emo_live.engine.limits import TINY_LIMITS, Limits
from emo_live.engine.published import PUBLISHED_LIMITS, USUAL, PublishedOptions, chosen_engine
from emo_live.errors import BadInputError
from emo_live.folders import CACHE_VARIABLE
from emo_live.weights.folder import ROOT_VARIABLE

PREFIX = "EMO_LIVE_"
Scope = Literal["session:create", "session:view", "metrics:read"]
ALL_SCOPES: tuple[Scope, ...] = ("session:create", "session:view", "metrics:read")
SIZES = (256, 512)  # that the page offers
CONFIG_VARIABLE = f"{PREFIX}CONFIG"  # names the TOML file; read by the command line
_MIN_KEY_CHARS = 16
_MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: as long as the hash
_NO_SETTINGS = (CONFIG_VARIABLE, CACHE_VARIABLE, ROOT_VARIABLE)  # in the environment, of everything
_OF_WEIGHTS = ("weights", "guidance", "sampler", "vae", "dtype", "attention", "compile", "device")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

Names = Annotated[tuple[str, ...], NoDecode]


class IceServer(BaseModel):
    """A STUN or TURN server, with the names that browsers use."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    urls: tuple[str, ...]
    username: str | None = None
    credential: SecretStr | None = None

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("urls")
    @classmethod
    def _schemes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(url.startswith(("stun:", "stuns:", "turn:", "turns:")) for url in value):
            raise ValueError("an ICE server's url begins with stun:, stuns:, turn: or turns:")
        return value


class ApiKey(BaseModel):
    """A secret that opens the API. name: what logs call its owner."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: SecretStr
    name: str = "key"
    scopes: tuple[Scope, ...] = ALL_SCOPES

    @field_validator("key")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < _MIN_KEY_CHARS:
            raise ValueError(f"an API key has at least {_MIN_KEY_CHARS} characters")
        return value


class Settings(BaseSettings):
    """See docs/server.md for what each is good for."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # Where it listens.
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: Names = ()
    cors_origins: Names = ()
    forwarded_allow_ips: Names = ("127.0.0.1",)

    # Who may use it.
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = ()
    jwt_secret: SecretStr | None = None
    jwt_public_key: Path | None = None
    jwt_audience: str = "emo_live"
    jwt_issuer: str | None = None

    # Who is shown, and how.
    portrait: Path | None = None
    engine: str = "tiny"
    size: int = 512
    steps: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    weights: str | None = None
    guidance: float | None = None
    sampler: str | None = None
    vae: str | None = None
    dtype: str | None = None
    attention: str | None = None
    compile: bool | None = None
    device: str | None = None
    greeting: str = "Hello! I am a synthetic face. Type something, or talk to me, and I will say it."
    greet: bool = True
    badge: bool = True
    badge_in_picture: bool = False

    # How many, how long, how much.
    max_sessions: int | None = Field(None, ge=1)
    max_avatars: int = Field(64, ge=1)
    session_idle_s: float = Field(60.0, gt=0)
    max_session_s: float | None = Field(None, gt=0)
    connect_timeout_s: float = Field(30.0, gt=0)
    drain_s: float = Field(20.0, ge=0)
    max_upload_bytes: int = Field(10_000_000, ge=1)
    max_upload_pixels: int = Field(64_000_000, ge=1)
    max_audio_bytes: int = Field(50_000_000, ge=1)
    max_audio_s: float = Field(600.0, gt=0)
    max_text_chars: int = Field(2000, ge=1)
    max_sdp_bytes: int = Field(64_000, ge=1)
    rate_create: str = "30/minute"
    rate_upload: str = "20/minute"
    rate_speech: str = "120/minute"
    rate_control: str = "60/second"
    rate_storage: str = "async+memory://"

    # WebRTC.
    ice_servers: tuple[IceServer, ...] = ()
    relay_only: bool = False
    udp_ports: tuple[int, int] | None = None
    max_bitrate_bps: int = Field(1_500_000, ge=100_000)
    prefer_codec: Literal["h264", "vp8"] = "h264"

    log_level: Literal["debug", "info", "warning", "error"] | None = None

    @field_validator("allowed_hosts", "cors_origins", "forwarded_allow_ips", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        return [{"key": part} if isinstance(part, str) else part for part in parts]

    @field_validator("rate_create", "rate_upload", "rate_speech", "rate_control")
    @classmethod
    def _rate(cls, value: str) -> str:
        from limits import parse

        parse(value)
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _MIN_SECRET_BYTES:
            raise ValueError(f"the secret of tokens has at least {_MIN_SECRET_BYTES} bytes")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(origin.startswith(("http://", "https://")) and origin.count("/") == 2 for origin in value):
            raise ValueError("an origin reads https://example.org, without a path; * is not taken")
        return value

    @field_validator("udp_ports")
    @classmethod
    def _ports(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1024 <= value[0] < value[1] <= 65535:
            raise ValueError("UDP ports are [first, last], from 1024 to 65535")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if not self.loopback and not self.protected:
            raise ValueError(
                f"host {self.host} is open to others: "
                f"set {PREFIX}API_KEYS or {PREFIX}JWT_SECRET, or listen on 127.0.0.1"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.jwt_secret is not None and self.jwt_public_key is not None:
            raise ValueError("give jwt_secret or jwt_public_key, not both")
        if self.relay_only and not any(url.startswith("turn") for server in self.ice_servers for url in server.urls):
            raise ValueError("relay_only needs a TURN server among ice_servers")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        """What the engine can do."""
        try:
            self.limits.check_size(self.size)
            if self.steps is not None:
                self.limits.check_steps(self.steps)
        except BadInputError as error:
            raise ValueError(f"setting {error}") from None
        return self

    @property
    def chosen_engine(self) -> str | PublishedOptions:
        """The engine by name, or with what is set about it."""
        steps = {"steps": self.steps} if self.engine in USUAL else {}  # the tiny engine has them as well
        return chosen_engine(self.engine, **{name: getattr(self, name) for name in _OF_WEIGHTS}, **steps)

    @property
    def sizes(self) -> tuple[int, ...]:
        """That the page offers."""
        return tuple(sorted({*SIZES, self.size}))

    @property
    def limits(self) -> Limits:
        return PUBLISHED_LIMITS if isinstance(self.chosen_engine, PublishedOptions) else TINY_LIMITS

    @property
    def loopback(self) -> bool:
        """Nobody but this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def protected(self) -> bool:
        """Requests need a key or a token."""
        return bool(self.api_keys) or self.jwt_secret is not None or self.jwt_public_key is not None

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host headers that are answered; empty: all.

        Without this, any page could reach a server on loopback by giving its own name that address (DNS rebinding).
        """
        return self.allowed_hosts or (_LOCAL_NAMES if self.loopback else ())

    @property
    def address(self) -> str:
        """What to type into a browser on this machine."""
        host = "localhost" if self.loopback and "::" not in self.host else self.host
        if host in ("0.0.0.0", "::"):
            host = "localhost"
        return f"http{'s' if self.tls_certificate else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = cls.model_config.get("toml_file")
        if file is None:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(config: Path | None = None, **given: Any) -> Settings:
    """Settings from arguments, the environment and a TOML file. Raises BadInputError: one line about what is wrong."""
    kind = Settings
    if config is not None:
        if not config.is_file():
            raise BadInputError(f"there is no settings file {config}: check the name")

        class FromFile(Settings):
            model_config = SettingsConfigDict(**{**Settings.model_config, "toml_file": config})

        kind = FromFile
    for name in sorted(os.environ):
        known = name in _NO_SETTINGS or name[len(PREFIX) :].lower() in kind.model_fields
        if name.startswith(PREFIX) and not known:
            raise BadInputError(f"there is no setting {name}: check the environment")
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise BadInputError(_first_line(error)) from None
    except (SettingsError, ValueError, OSError) as error:  # ValueError: TOML that cannot be read
        raise BadInputError(f"the settings cannot be read: {' '.join(str(error).split())}") from None


def _first_line(error: ValidationError) -> str:
    """The first complaint without its value, which may be a secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    known = name.split(".")[0] in Settings.model_fields
    where = f"setting {name} ({PREFIX}{name.split('.')[0].upper()})" if known else f"setting {name}"
    if not message[1:2].isupper():  # not an abbreviation
        message = message[:1].lower() + message[1:]
    return f"{where}: {message}" if known else f"there is no {where}: check its name"
