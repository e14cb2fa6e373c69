"""Who may do what: static API keys and signed tokens (JWT), both as `Authorization: Bearer ...`.

A server that nobody set a key for answers everybody: settings.py lets such a server listen on loopback only. The URL
of a session is a secret of its own, so that its resources need no token; one that is sent along must be valid.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt

from emo_live.errors import BadInputError
from emo_live_server.problems import Problem
from emo_live_server.settings import ALL_SCOPES, Scope, Settings

SUBPROTOCOL = "emo-live"
KEY_SUBPROTOCOL = "emo-live-key."  # browsers cannot send headers with a WebSocket; a URL would end up in logs
_ASYMMETRIC = ("RS256", "PS256", "ES256", "EdDSA")
_LEEWAY_S = 10


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. name: for logs and rate limits; of a token, a digest of its subject."""

    name: str
    scopes: frozenset[str]


_ANYBODY = Principal("local", frozenset(ALL_SCOPES))


class Authenticator:
    """Raises BadInputError if the public key cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self.protected = settings.protected
        self._keys = {
            _digest(key.key.get_secret_value()): Principal(key.name, frozenset(key.scopes)) for key in settings.api_keys
        }
        self._audience, self._issuer = settings.jwt_audience, settings.jwt_issuer
        self._jwt_key: str | None = None
        self._algorithms: tuple[str, ...] = ("HS256",)
        if settings.jwt_secret is not None:
            self._jwt_key = settings.jwt_secret.get_secret_value()
        elif settings.jwt_public_key is not None:
            try:
                self._jwt_key, self._algorithms = settings.jwt_public_key.read_text(), _ASYMMETRIC
            except OSError as error:
                raise BadInputError(
                    f"jwt_public_key {settings.jwt_public_key} cannot be read: {error.strerror}"
                ) from None

    def principal(self, secret: str | None) -> Principal | None:
        """Who sent this key or token; None if nothing was sent. Raises Problem 401 if it is not valid."""
        if not self.protected:
            return _ANYBODY
        if secret is None:
            return None
        digest = _digest(secret)
        for known, principal in self._keys.items():
            if hmac.compare_digest(known, digest):
                return principal
        return self._from_token(secret)

    def require(self, principal: Principal | None, scope: Scope) -> Principal:
        """Raises Problem: 401 if nobody said who asks, 403 if the caller's scopes lack `scope`."""
        if principal is None:
            raise _unauthorized("this server wants a key or a token: Authorization: Bearer ...", None)
        if scope not in principal.scopes:
            headers = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
            raise Problem(403, f"this key or token has no scope {scope}", reason="insufficient_scope", headers=headers)
        return principal

    def _from_token(self, token: str) -> Principal:
        if self._jwt_key is None:
            raise _unauthorized("this key is not valid", "invalid_token")
        try:
            claims = jwt.decode(
                token,
                self._jwt_key,
                algorithms=list(self._algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise _unauthorized("this token has expired", "invalid_token") from None
        except (jwt.PyJWTError, ValueError):
            raise _unauthorized("this token is not valid", "invalid_token") from None
        subject = _digest(str(claims.get("sub", "")))[:12]
        return Principal(f"token {subject}", frozenset(_scopes(claims)))


def bearer(authorization: str | None) -> str | None:
    """The secret of an Authorization header; None if there is none of this kind."""
    if authorization is None:
        return None
    kind, _, secret = authorization.partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def from_subprotocols(offered: Iterable[str]) -> str | None:
    """The secret that a browser's WebSocket brought along as a subprotocol."""
    keys = [name.removeprefix(KEY_SUBPROTOCOL) for name in offered if name.startswith(KEY_SUBPROTOCOL)]
    return keys[0] if keys else None


def _scopes(claims: dict[str, Any]) -> list[str]:
    """RFC 8693 has one string with spaces; some issuers send a list."""
    value = claims.get("scope", claims.get("scopes", []))
    return value.split() if isinstance(value, str) else [str(name) for name in value] if isinstance(value, list) else []


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _unauthorized(detail: str, error: str | None) -> Problem:
    challenge = 'Bearer realm="emo_live"' + (f', error="{error}"' if error else "")
    return Problem(401, detail, reason=error or "unauthorized", headers={"WWW-Authenticate": challenge})
