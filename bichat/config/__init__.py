"""One frozen struct with every setting; the only place that reads the environment."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from bichat.config import encryption, spending, values
from bichat.config.off_peak import NIGHT, OffPeak, off_peak
from bichat.config.spending import Budget, Prices, Rate
from bichat.errors.unusable import WrongSetting

DEFAULT_MODEL = "gpt-4.1-mini"
"""Asked when neither a model is configured nor the small one comes along."""

DEFAULT_CONTEXT_TOKENS = 8_000


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process; the field's upper-case name is the variable's.

    `None` for `database_url` or `redis_url` means: bring your own. The secrets are `None` until
    given or, with bichat's own database, made on the first start (`embedded`).
    """

    database_url: str | None = None
    keys_database_url: str | None = None
    database_read_url: str | None = None
    """A streaming replica of `database_url`, one server, for queries; `None`: they go there as well."""
    redis_url: str | None = None
    analytics_database_url: str | None = None
    """The business database, as a role that can only read it; `{tenant}` in it stands for the tenant's id."""
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
    bichat_embedding_model: str | None = None
    """Makes vectors of texts, at OPENAI_BASE_URL; `None`: the small one that comes along."""
    bichat_context_tokens: int | None = None
    """Tokens of prompt and history that the model is shown; `None`: 8,000, or what fits the small one."""
    bichat_max_message_chars: int = 32_000
    bichat_functions: bool = True
    """Whether models are offered functions; the small one never is."""
    bichat_auto_label: bool = True
    """Whether the model gives a dialogue without a label one, after an answer."""
    bichat_off_peak: OffPeak = NIGHT
    """When questions with `schedule: off_peak` are answered."""
    bichat_off_peak_concurrency: int = 2
    """How many of these a worker answers at a time, beside the others."""

    bichat_rate_limit: Rate | None = None
    """Requests of one user; `None`: as many as they like, as with the following."""
    bichat_tenant_rate_limit: Rate | None = None
    """Requests of all users of a tenant together."""
    bichat_token_limit: Rate | None = None
    """Tokens that a tenant's questions may take before further ones are refused."""
    bichat_prices: Prices | None = None
    """Of the models, in whatever currency; `None`: nobody knows what anything costs."""
    bichat_budget: Budget | None = None
    """Of each tenant, in the currency of the prices."""
    bichat_model_concurrency: int | None = None
    """Questions that all workers together answer at a time; `None`: as many as workers can."""

    bichat_tls_cert: Path | None = None
    """PEM: the API's certificate and those between it and its authority; `None`: it speaks plain HTTP."""
    bichat_tls_key: Path | None = None
    bichat_plaintext: bool = False
    """Whether to speak to databases, Redis and models on other machines without encryption."""

    bichat_cache: bool = True
    """Whether answers about dialogues that are being read are kept in Redis."""
    bichat_archive_after: int | None = None
    """Days without a change after which a dialogue is archived; `None`: people do that themselves."""

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
    def serves_https(self) -> bool:
        """Whether the API has a certificate."""
        return self.bichat_tls_cert is not None

    @property
    def context_tokens(self) -> int:
        """Tokens of prompt and history that the model is shown."""
        return self.bichat_context_tokens or DEFAULT_CONTEXT_TOKENS

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
    given: dict[str, object] = {}
    for name in Config.__struct_fields__:
        text = environ.get(name.upper(), "").strip()
        if text:
            given[name] = _READERS.get(name, values.text)(name.upper(), text)
    _encrypted(given, environ)
    config = Config(**given)  # type: ignore[arg-type]
    if environ.get("POSTGRES_ENABLE_DB_FUNCTIONS"):
        # The eventsourcing library would append without a lock, and followers would skip events for good.
        raise WrongSetting(name="POSTGRES_ENABLE_DB_FUNCTIONS", reason="must not be set")
    if config.database_url and config.bichat_master_key is None:
        raise WrongSetting(name="BICHAT_MASTER_KEY", reason="must be given when DATABASE_URL is")
    if config.database_read_url and not config.database_url:
        raise WrongSetting(name="DATABASE_READ_URL", reason="needs DATABASE_URL")
    if config.bichat_jwt_secret and config.bichat_jwt_public_key:
        raise WrongSetting(name="BICHAT_JWT_PUBLIC_KEY", reason="give this or BICHAT_JWT_SECRET, not both")
    if (config.bichat_tls_cert is None) != (config.bichat_tls_key is None):
        name = "BICHAT_TLS_CERT" if config.bichat_tls_key else "BICHAT_TLS_KEY"
        raise WrongSetting(name=name, reason="is missing: a certificate and its key go together")
    if config.bichat_budget and not config.bichat_prices:
        raise WrongSetting(name="BICHAT_BUDGET", reason="needs BICHAT_PRICES")
    return config


_DATABASES = ("database_url", "keys_database_url", "database_read_url", "analytics_database_url")


def _encrypted(given: dict[str, object], environ: Mapping[str, str]) -> None:
    """Sees to it that what goes to other machines goes encrypted, unless that was said otherwise."""
    if given.get("bichat_plaintext"):
        return
    for name in ("redis_url", "openai_base_url"):
        if name in given:
            encryption.refuse_plaintext(name.upper(), str(given[name]))
    for name in _DATABASES:
        if name in given:
            given[name] = encryption.postgres(name.upper(), str(given[name]), environ)


def environment(config: Config, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to start another process with, so that `load` gives it `config`."""
    values = ((name.upper(), getattr(config, name)) for name in Config.__struct_fields__)
    return {**environ, **{name: _written(value) for name, value in values if value is not None}}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return ",".join(value) if isinstance(value, tuple) else str(value)


_READERS: dict[str, Callable[[str, str], object]] = {
    "database_url": values.servers,
    "keys_database_url": values.servers,
    "database_read_url": values.one_server,
    "analytics_database_url": values.servers,
    "redis_url": values.url("redis", "rediss", "unix"),
    "openai_base_url": values.url("http", "https"),
    "bichat_data_dir": lambda name, text: Path(values.text(name, text)),
    "bichat_host": values.host,
    "bichat_port": values.whole_number(1, 65_535),
    "bichat_cors_origins": values.origins,
    "bichat_jwt_secret": values.secret,
    "bichat_jwt_public_key": values.pem_or_jwks,
    "bichat_master_key": values.key,
    "bichat_old_master_key": values.key,
    "bichat_signing_key": values.key,
    "bichat_embedding_model": values.name,
    "bichat_context_tokens": values.whole_number(64, 10_000_000),
    "bichat_max_message_chars": values.whole_number(1, 1_000_000),
    "bichat_functions": values.on_off,
    "bichat_auto_label": values.on_off,
    "bichat_off_peak": off_peak,
    "bichat_off_peak_concurrency": values.whole_number(1, 1_000),
    "bichat_rate_limit": spending.rate("second", "minute", "hour"),
    "bichat_tenant_rate_limit": spending.rate("second", "minute", "hour"),
    "bichat_token_limit": spending.rate("second", "minute", "hour"),
    "bichat_prices": spending.prices,
    "bichat_budget": spending.budget,
    "bichat_model_concurrency": values.whole_number(1, 100_000),
    "bichat_tls_cert": lambda name, text: Path(values.text(name, text)),
    "bichat_tls_key": lambda name, text: Path(values.text(name, text)),
    "bichat_plaintext": values.on_off,
    "bichat_cache": values.on_off,
    "bichat_archive_after": values.whole_number(1, 36_500),
    "bichat_ready_lag_seconds": values.whole_number(1, 86_400),
    "bichat_metrics_port": values.whole_number(1, 65_535),
    "bichat_log": values.one_of("text", "json"),
    "otel_exporter_otlp_endpoint": values.url("http", "https"),
}
