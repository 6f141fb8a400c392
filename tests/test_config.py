"""Settings: what is given arrives, what cannot be used is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bichat.config import Config, environment, load
from bichat.errors.unusable import WrongSetting

KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
GIVEN = {
    "DATABASE_URL": "postgresql://me:secret@db/bichat",
    "DATABASE_READ_URL": "postgresql://replica/x?sslmode=require",
    "ANALYTICS_DATABASE_URL": "postgresql://tenant_{tenant}@business/x",
    "BICHAT_FUNCTIONS": "off",
    "REDIS_URL": "redis://cache",
    "BICHAT_DATA_DIR": "/somewhere",
    "BICHAT_HOST": "0.0.0.0",
    "BICHAT_PORT": "80",
    "BICHAT_CORS_ORIGINS": "https://a.example, http://localhost:3000/",
    "BICHAT_JWT_SECRET": "s" * 32,
    "BICHAT_MASTER_KEY": KEY,
    "OPENAI_BASE_URL": "http://model/v1",
    "BICHAT_MODEL": "small",
    "BICHAT_CONTEXT_TOKENS": "4000",
    "BICHAT_MAX_MESSAGE_CHARS": "10",
    "BICHAT_LOG": "json",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    "OTEL_SERVICE_NAME": "sales",
    "BICHAT_READY_LAG_SECONDS": "5",
    "BICHAT_ARCHIVE_AFTER": "90",
    "BICHAT_CACHE": "off",
    "BICHAT_METRICS_PORT": "9100",
    "BICHAT_AUTO_LABEL": "off",
    "BICHAT_OFF_PEAK": "21:30-05:00 Europe/Berlin",
    "BICHAT_OFF_PEAK_CONCURRENCY": "4",
    "BICHAT_RATE_LIMIT": "600/minute",
    "BICHAT_TENANT_RATE_LIMIT": "50/second",
    "BICHAT_TOKEN_LIMIT": "100000/hour",
    "BICHAT_PRICES": "gpt-4.1-mini = 0.40/1.60, house/model=0/0.000000001,*=1/3",
    "BICHAT_BUDGET": "49.90/month",
    "BICHAT_MODEL_CONCURRENCY": "16",
    "BICHAT_TLS_CERT": "/certificate.pem",
    "BICHAT_TLS_KEY": "/key.pem",
    "BICHAT_PLAINTEXT": "on",
}


def test_nothing_given_brings_everything_along() -> None:
    config = load({})
    assert config == Config()
    assert config.brings_postgres
    assert config.brings_redis
    assert config.brings_model


def test_what_is_given_arrives() -> None:
    config = load(GIVEN)
    assert config.database_url == GIVEN["DATABASE_URL"]
    assert config.bichat_data_dir == Path("/somewhere")
    assert (config.analytics_database_url or "").startswith("postgresql://tenant_{tenant}@business/x")
    assert not config.bichat_functions
    assert config.bichat_port == 80
    assert config.bichat_cors_origins == ("https://a.example", "http://localhost:3000")
    assert config.bichat_master_key == b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
    assert not config.brings_postgres
    assert not config.brings_redis
    assert not config.brings_model


def test_another_process_gets_the_same_settings() -> None:
    assert load(environment(load(GIVEN), {})) == load(GIVEN)
    assert environment(Config(), {"PATH": "/bin"})["PATH"] == "/bin"
    assert load(environment(Config(), {})) == Config()


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_counts_as_not_given(empty: str) -> None:
    assert load(dict.fromkeys(GIVEN, empty)) == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "postgresql://x:port/y"),
        ("DATABASE_URL", "postgresql://[x/y"),
        ("KEYS_DATABASE_URL", "x"),
        ("REDIS_URL", "http://x"),
        ("OPENAI_BASE_URL", "api.example"),
        ("OPENAI_API_KEY", "a\0b"),
        ("BICHAT_PORT", "0"),
        ("BICHAT_PORT", "65536"),
        ("BICHAT_PORT", "-1"),
        ("BICHAT_PORT", "٨٠٠٠"),
        ("BICHAT_CORS_ORIGINS", "https://a.example,b.example"),
        ("BICHAT_JWT_SECRET", "s" * 31),
        ("BICHAT_JWT_PUBLIC_KEY", "/nowhere"),
        ("BICHAT_MASTER_KEY", "short"),
        ("BICHAT_MASTER_KEY", KEY[:-4]),
        ("BICHAT_CONTEXT_TOKENS", "63"),
        ("BICHAT_MAX_MESSAGE_CHARS", "1e3"),
        ("BICHAT_LOG", "loud"),
        ("BICHAT_AUTO_LABEL", "true"),
        ("BICHAT_OFF_PEAK_CONCURRENCY", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("BICHAT_READY_LAG_SECONDS", "0"),
        ("BICHAT_ARCHIVE_AFTER", "0"),
        ("DATABASE_READ_URL", "postgresql://a,b/x"),
        ("DATABASE_READ_URL", "postgresql://a%2Cb/x"),
        ("DATABASE_READ_URL", "postgresql://a/x?hostaddr=1.1.1.1,2.2.2.2"),
        ("DATABASE_READ_URL", "postgresql://x/y?host=a&host=b,c"),
        ("DATABASE_URL", "postgresql:x"),
        ("DATABASE_URL", "postgresql://a:1,b:99999/x"),
        ("BICHAT_METRICS_PORT", "65536"),
        ("BICHAT_METRICS_PORT", "9" * 5000),
        ("BICHAT_PRICES", ","),
        ("BICHAT_HOST", "evil host"),
        ("BICHAT_HOST", "http://evil"),
        ("BICHAT_CORS_ORIGINS", ","),
        ("BICHAT_CORS_ORIGINS", "http://evil/path"),
        ("BICHAT_CORS_ORIGINS", "http://me@evil"),
        ("OPENAI_BASE_URL", "http:evil.com/v1"),
        ("OPENAI_BASE_URL", "http://"),
        ("OPENAI_BASE_URL", "https://evil host/v1"),
        ("REDIS_URL", "redis:evil"),
        ("BICHAT_RATE_LIMIT", "600"),
        ("BICHAT_RATE_LIMIT", "0/minute"),
        ("BICHAT_RATE_LIMIT", "6e2/minute"),
        ("BICHAT_TENANT_RATE_LIMIT", "600/day"),
        ("BICHAT_TOKEN_LIMIT", "-1/minute"),
        ("BICHAT_PRICES", "0.40/1.60"),
        ("BICHAT_PRICES", "*=1"),
        ("BICHAT_PRICES", "*=1/NaN"),
        ("BICHAT_PRICES", "*=1/2,*=1/3"),
        ("BICHAT_BUDGET", "50/week"),
        ("BICHAT_BUDGET", "50/month"),  # of what, without prices
        ("BICHAT_MODEL_CONCURRENCY", "0"),
        ("BICHAT_PLAINTEXT", "yes"),
        ("POSTGRES_ENABLE_DB_FUNCTIONS", "y"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(WrongSetting) as refusal:
        load({name: value})
    assert str(refusal.value).startswith(f"{name}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("url", ["postgresql://u:hunter%2pw@h/x", "postgresql://u:hunter2@[h/x"])
@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_READ_URL", "ANALYTICS_DATABASE_URL"])
def test_what_libpq_cannot_read_is_refused_without_its_words(name: str, url: str) -> None:
    with pytest.raises(WrongSetting) as refusal:
        load({name: url})
    assert str(refusal.value) == f"{name}: is not a URL that libpq can read"
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_several_databases_may_stand_behind_one_url() -> None:
    given = {"DATABASE_URL": "postgresql://a:1,b:2/x?sslmode=require", "BICHAT_MASTER_KEY": KEY}
    assert load(given).database_url == given["DATABASE_URL"]


def test_a_given_database_needs_a_given_master_key() -> None:
    with pytest.raises(WrongSetting, match="BICHAT_MASTER_KEY: must be given when DATABASE_URL is"):
        load({"DATABASE_URL": "postgresql://x/y"})


def test_a_certificate_and_its_key_go_together() -> None:
    with pytest.raises(WrongSetting, match="BICHAT_TLS_KEY: is missing"):
        load({"BICHAT_TLS_CERT": "/certificate.pem"})
    with pytest.raises(WrongSetting, match="BICHAT_TLS_CERT: is missing"):
        load({"BICHAT_TLS_KEY": "/key.pem"})


def test_a_public_key_comes_as_text_or_in_a_file(tmp_path: Path) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"
    (tmp_path / "key.pem").write_text(pem)
    assert load({"BICHAT_JWT_PUBLIC_KEY": pem}).bichat_jwt_public_key == pem
    assert load({"BICHAT_JWT_PUBLIC_KEY": str(tmp_path / "key.pem")}).bichat_jwt_public_key == pem
    with pytest.raises(WrongSetting, match="not both"):
        load({"BICHAT_JWT_PUBLIC_KEY": pem, "BICHAT_JWT_SECRET": "s" * 32})


def test_a_config_in_a_log_shows_no_value() -> None:
    shown = repr(load(GIVEN))
    assert "bichat_jwt_secret" in shown
    assert not any(value in shown for value in GIVEN.values() if value not in ("on", "off"))
