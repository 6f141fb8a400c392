"""Who is asking: the bearer token's claims, checked with the one algorithm that is configured."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from litestar import Request
from msgspec import Meta, Struct

from bichat.config import Config
from bichat.errors import Forbidden, NotAuthenticated
from bichat.errors.unusable import WrongSetting

LONGEST_TOKEN = 8192


class Caller(Struct, frozen=True):
    """A person with a good token."""

    id: str
    tenant_id: UUID
    roles: frozenset[str]
    expires: float
    """Unix time; from then on the token is worth nothing."""


class _Claims(Struct, frozen=True):
    sub: Annotated[str, Meta(min_length=1, max_length=128)]
    tenant: UUID
    exp: float
    roles: frozenset[str] = frozenset({"user"})


class _Key(Struct, frozen=True):
    """A key with the only algorithm it is used with, so that a token cannot choose another."""

    key: Any
    algorithm: str


class Verifier:
    """Turns tokens into callers; raises `WrongSetting` when the configured key is of no use."""

    def __init__(self, config: Config) -> None:
        self._keys = _keys(config)
        self._issuer = config.bichat_jwt_issuer
        self._audience = config.bichat_jwt_audience
        # A signature that held once holds until the token expires, which `caller` looks at each time.
        self._verified = lru_cache(4096)(self._verify)

    def caller(self, authorization: str) -> Caller:
        """Who sent this Authorization header; raises `NotAuthenticated`."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated(reason="Send a token: Authorization: Bearer …")
        if len(token) > LONGEST_TOKEN:
            raise NotAuthenticated(reason="The token is too long.")
        caller = self._verified(token.strip())
        if caller.expires <= time.time():
            raise NotAuthenticated(reason="The token has expired.")
        return caller

    def _verify(self, token: str) -> Caller:
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            payload = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": self._audience is not None,
                    "verify_iat": False,
                },
            )
            claims = msgspec.convert(payload, _Claims)
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated(reason="The token has expired.") from None
        except msgspec.ValidationError as error:
            raise NotAuthenticated(reason=f"The token's claims are wrong: {error}") from None
        except Exception:  # whatever a stranger puts into a token, it is only ever a bad token
            raise NotAuthenticated(reason="The token is not valid.") from None
        if not claims.sub.isprintable():
            raise NotAuthenticated(reason="The token's claims are wrong: sub must be printable.")
        return Caller(claims.sub, claims.tenant, claims.roles, claims.exp)

    def _key(self, kid: str | None) -> _Key:
        if kid is None or None in self._keys:
            [only] = self._keys.values()  # without `kid` there must be no choice
            return only
        return self._keys[kid]


def admit(request: Request[Caller, Any, Any]) -> None:
    """Lets in callers with one of the roles in the route's `opt["roles"]`, `user` if it has none.

    Raises `NotAuthenticated` or `Forbidden`.
    """
    verifier: Verifier = request.app.state["verifier"]
    caller = verifier.caller(request.headers.get("authorization", ""))
    roles: tuple[str, ...] = request.route_handler.opt.get("roles", ("user",))
    if caller.roles.isdisjoint(roles):
        raise Forbidden(role=" or ".join(roles))
    request.scope["user"] = caller


def _keys(config: Config) -> dict[str | None, _Key]:
    """By `kid`; a single key without one is under None."""
    if config.bichat_jwt_secret:
        return {None: _Key(config.bichat_jwt_secret.encode(), "HS256")}
    text = (config.bichat_jwt_public_key or "").strip()
    if not text:
        raise WrongSetting(name="BICHAT_JWT_SECRET", reason="must be given, or BICHAT_JWT_PUBLIC_KEY")
    try:
        return (
            _jwks(text) if text.startswith("{") else {None: _asymmetric(load_pem_public_key(text.encode()))}
        )
    except (ValueError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
        raise WrongSetting(
            name="BICHAT_JWT_PUBLIC_KEY", reason=f"is not a usable public key: {error}"
        ) from None


def _jwks(text: str) -> dict[str | None, _Key]:
    keys: dict[str | None, _Key] = {}
    for entry in msgspec.json.decode(text, type=dict[str, Any]).get("keys", ()):
        if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC"):
            continue
        kid = entry.get("kid")
        if kid in keys or not isinstance(kid, str):
            raise ValueError("each key needs a `kid` of its own")
        key = _asymmetric(jwt.PyJWK(entry).key)
        if entry.get("alg", key.algorithm) != key.algorithm:
            continue
        keys[kid] = key
    if not keys:
        raise ValueError("no RSA or P-256 key for signatures in it")
    return keys


def _asymmetric(key: object) -> _Key:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return _Key(key, "RS256")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return _Key(key, "ES256")
    raise ValueError("it must be RSA of at least 2048 bits, or P-256")
