"""One frozen struct with every setting; the only place that reads the environment."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from bichat.errors.unusable import WrongSetting

DEFAULT_MODEL = "gpt-4.1-mini"
"""Asked when neither a model is configured nor the small one comes along."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process; the field's upper-case name is the variable's.

    `None` for `database_url` or `redis_url` means: bring your own. The secrets are `None` until
    given or, with bichat's own database, made on the first start (`embedded`).
    """

    database_url: str | None = None
    keys_database_url: str | None = None
    redis_url: str | None = None
    openai_api_key: str | None = None
    openai_base_url: str | None = None

    bichat_data_dir: Path = Path(".bichat")
    bichat_host: str = "127.0.0.1"
    bichat_port: int = 8000
    bichat_cors_origins: tuple[str, ...] = ()

    bichat_jwt_secret: str | None = None
    bichat_jwt_public_key: str | None = None
    """PEM text, or a JWKS document; a path to either works too."""
    bichat_jwt_issuer: str | None = None
    bichat_jwt_audience: str | None = None
    bichat_master_key: bytes | None = msgspec.field(default=None)
    """32 bytes; base64 in the environment."""
    bichat_old_master_key: bytes | None = None
    """32 bytes likewise: the one before, until `bichat keys rotate --master` is done."""
    bichat_signing_key: bytes | None = None
    """32 bytes likewise, an Ed25519 private key that signs seals; `None`: the keys store has one."""

    bichat_model: str | None = None
    bichat_fallback_model: str | None = None
    bichat_context_tokens: int | None = None
    """Tokens of prompt and history that the model is shown; `None`: 8,000, or what fits the small one."""
    bichat_max_message_chars: int = 32_000

    bichat_ready_lag_seconds: int = 30
    """A read model that is further behind the log makes `/health/ready` fail."""
    bichat_metrics_port: int | None = None
    """Where a worker or projector shows its metrics, to anybody; `None`: nowhere."""

    bichat_log: Literal["text", "json"] = "text"
    otel_exporter_otlp_endpoint: str | None = None
    """Where traces go, over OTLP/HTTP; `None`: there are none."""
    otel_service_name: str | None = None

    def __repr__(self) -> str:
        """Without values: a config holds secrets, and a repr ends up in logs."""
        return f"Config({', '.join(f for f in self.__struct_fields__ if getattr(self, f) is not None)})"

    @property
    def brings_postgres(self) -> bool:
        """Whether bichat starts a Postgres of its own."""
        return self.database_url is None

    @property
    def brings_redis(self) -> bool:
        """Whether bichat starts a Valkey of its own."""
        return self.redis_url is None

    @property
    def brings_model(self) -> bool:
        """Whether bichat starts the small local model."""
        return self.openai_api_key is None and self.openai_base_url is None


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """The settings in `environ`; an empty value counts as not given.

    Raises `WrongSetting`, naming the variable, when a value cannot be used or one is missing.
    """
    values: dict[str, object] = {}
    for name in Config.__struct_fields__:
        text = environ.get(name.upper(), "").strip()
        if text:
            values[name] = _READERS.get(name, _text)(name.upper(), text)
    config = Config(**values)  # type: ignore[arg-type]
    if environ.get("POSTGRES_ENABLE_DB_FUNCTIONS"):
        # The eventsourcing library would append without a lock, and followers would skip events for good.
        raise WrongSetting(name="POSTGRES_ENABLE_DB_FUNCTIONS", reason="must not be set")
    if config.database_url and config.bichat_master_key is None:
        raise WrongSetting(name="BICHAT_MASTER_KEY", reason="must be given when DATABASE_URL is")
    if config.bichat_jwt_secret and config.bichat_jwt_public_key:
        raise WrongSetting(name="BICHAT_JWT_PUBLIC_KEY", reason="give this or BICHAT_JWT_SECRET, not both")
    return config


def environment(config: Config, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to start another process with, so that `load` gives it `config`."""
    values = ((name.upper(), getattr(config, name)) for name in Config.__struct_fields__)
    return {**environ, **{name: _written(value) for name, value in values if value is not None}}


def _written(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _text(name: str, text: str) -> str:
    if "\x00" in text:
        raise WrongSetting(name=name, reason="must not contain a NUL character")
    return text


def _whole_number(low: int, high: int) -> Callable[[str, str], int]:
    def read(name: str, text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise WrongSetting(name=name, reason=f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def _one_of(*words: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in words:
            raise WrongSetting(name=name, reason=f"must be {' or '.join(words)}")
        return text

    return read


def _url(*schemes: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise WrongSetting(name=name, reason="is not a URL") from None
        if parts.scheme not in schemes:
            raise WrongSetting(name=name, reason=f"must start with {' or '.join(s + '://' for s in schemes)}")
        return text

    return read


def _origins(name: str, text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        _url("http", "https")(name, origin)
    return origins


def _secret(name: str, text: str) -> str:
    if len(text.encode()) < 32:
        raise WrongSetting(name=name, reason="must be at least 32 bytes long")
    return text


def _key(name: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise WrongSetting(name=name, reason="must be 32 bytes in base64 (openssl rand -base64 32)")
    return key


def _pem_or_jwks(name: str, text: str) -> str:
    if text.startswith(("-----BEGIN", "{")):
        return text
    try:
        return Path(text).read_text()
    except OSError as error:
        reason = f"is neither PEM, JWKS nor a readable file ({error.strerror})"
        raise WrongSetting(name=name, reason=reason) from None


_READERS: dict[str, Callable[[str, str], object]] = {
    "database_url": _url("postgresql", "postgres"),
    "keys_database_url": _url("postgresql", "postgres"),
    "redis_url": _url("redis", "rediss", "unix"),
    "openai_base_url": _url("http", "https"),
    "bichat_data_dir": lambda name, text: Path(_text(name, text)),
    "bichat_port": _whole_number(1, 65_535),
    "bichat_cors_origins": _origins,
    "bichat_jwt_secret": _secret,
    "bichat_jwt_public_key": _pem_or_jwks,
    "bichat_master_key": _key,
    "bichat_old_master_key": _key,
    "bichat_signing_key": _key,
    "bichat_context_tokens": _whole_number(64, 10_000_000),
    "bichat_max_message_chars": _whole_number(1, 1_000_000),
    "bichat_ready_lag_seconds": _whole_number(1, 86_400),
    "bichat_metrics_port": _whole_number(1, 65_535),
    "bichat_log": _one_of("text", "json"),
    "otel_exporter_otlp_endpoint": _url("http", "https"),
}
