"""What goes to another machine is encrypted, unless a setting says otherwise."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from bichat.config import environment, load
from bichat.errors.unusable import WrongSetting

KEY = {"BICHAT_MASTER_KEY": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="}


def database(url: str, **environ: str) -> str:
    """What becomes of DATABASE_URL."""
    found = load({"DATABASE_URL": url, **KEY, **environ}).database_url
    assert found is not None
    return found


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///bichat",
        "postgresql://me@localhost:5433/bichat",
        "postgresql://127.8.9.10/bichat",
        "postgresql://[::1]:5432/bichat",
        "postgresql://127.0.0.1,localhost/bichat",
        "postgresql:///bichat?host=/run/postgresql",
        "postgresql://me@%2Frun%2Fpostgresql/bichat",
        "postgresql://db/bichat?hostaddr=127.0.0.1",
    ],
)
def test_on_this_machine_nothing_is_asked_for(url: str) -> None:
    assert database(url) == url


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("postgresql://me:p%40ss@db:5432/bichat", {}),
        ("postgresql://db/bichat?application_name=a", {}),
        ("postgresql://10.0.0.1/bichat", {}),
        ("postgresql://localhost,db/bichat", {}),
        ("postgresql://[2001:db8::1]/bichat", {}),
        ("postgresql:///bichat?host=localhost,db", {}),
        ("postgresql://localhost/bichat?hostaddr=10.0.0.1", {}),
        ("postgresql://localhost,localhost/bichat?hostaddr=127.0.0.1,10.0.0.1", {}),
        ("postgresql:///bichat?service=sales", {}),
        ("postgresql://localhost/bichat?service=sales", {}),
        ("postgresql://%2Ftmp%2Cevil/bichat", {}),
        ("postgresql://localhost#@evil/bichat", {}),
        ("postgresql://localhost?@evil/bichat", {}),
        ("postgresql://localhost?@evil/bichat?application_name=a", {}),
        ("postgresql://localhost/bichat#?host=evil", {}),
        ("postgresql://localhost:1,db:2/bichat", {}),
        ("postgresql:///bichat", {"PGHOST": "db"}),
        ("postgresql://localhost/bichat", {"PGHOSTADDR": "10.0.0.1"}),
        ("postgresql:///bichat", {"PGSERVICE": "sales"}),
    ],
)
def test_a_database_on_another_machine_must_prove_who_it_is(url: str, environ: dict[str, str]) -> None:
    becomes = database(url, **environ)
    said = psycopg.conninfo.conninfo_to_dict(becomes)
    assert said["sslmode"] == "verify-full"
    assert Path(str(said["sslrootcert"])).exists()
    assert becomes.startswith(url)
    again = load(environment(load({"DATABASE_URL": url, **KEY, **environ}), environ))
    assert again.database_url == becomes


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_what_the_url_says_of_encryption_stands(mode: str) -> None:
    url = f"postgresql://db/bichat?sslmode={mode}"
    assert database(url) == url
    assert database("postgresql://db/bichat", PGSSLMODE=mode) == "postgresql://db/bichat"


def test_whose_authorities_are_asked_can_be_said(tmp_path: Path) -> None:
    def asked(url: str, **environ: str) -> list[str] | None:
        return parse_qs(urlsplit(database(url, **environ)).query).get("sslrootcert")

    assert asked("postgresql://db/bichat?sslrootcert=/mine.pem") == ["/mine.pem"]
    assert asked("postgresql://db/bichat", PGSSLROOTCERT="/mine.pem") is None
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert asked("postgresql://db/bichat", HOME=str(tmp_path)) is None  # libpq finds it by itself


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "redis://cache"),
        ("REDIS_URL", "redis://:secret@10.0.0.1:6379/0"),
        ("REDIS_URL", "redis:///0?host=cache"),
        ("OPENAI_BASE_URL", "http://models.example/v1"),
    ],
)
def test_in_the_clear_to_another_machine_is_refused_by_name(name: str, url: str) -> None:
    with pytest.raises(WrongSetting) as refusal:
        load({name: url})
    assert str(refusal.value).startswith(f"{name}: ")
    assert "BICHAT_PLAINTEXT=on" in str(refusal.value)
    assert url not in str(refusal.value)
    assert load({name: url, "BICHAT_PLAINTEXT": "on"})


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "rediss://cache"),
        ("REDIS_URL", "redis://localhost"),
        ("REDIS_URL", "redis://[::1]"),
        ("REDIS_URL", "unix:///run/valkey"),
        ("OPENAI_BASE_URL", "https://models.example/v1"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    ],
)
def test_encrypted_or_on_this_machine_is_taken(name: str, url: str) -> None:
    assert getattr(load({name: url}), name.lower()) == url


def test_databases_are_spoken_to_in_the_clear_when_that_was_said() -> None:
    assert database("postgresql://db/bichat", BICHAT_PLAINTEXT="on") == "postgresql://db/bichat"
