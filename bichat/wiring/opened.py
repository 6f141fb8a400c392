"""What every process opens: the log, the keys and the doorbell, once it is sure that they fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bichat.config import Config
from bichat.doorbell import Doorbell
from bichat.errors.unusable import WrongSetting
from bichat.events import schema
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger

if TYPE_CHECKING:
    from bichat.projections.processes import Database


@contextmanager
def log(config: Config, *, reads: bool = True) -> Iterator[Ledger]:
    """The log, once it is sure that its schema and its master key are ours.

    `reads`: what this process does needs the read models too.
    """
    from bichat.projections import versions

    check(config)
    if reads:
        with schema.connect(url(config)) as connection:
            versions.check(connection)
    with keys(config) as store:
        store.watch()
        ledger = Ledger(url(config), store)
        try:
            yield ledger
        finally:
            ledger.close()


def place(config: Config) -> Database:
    """Where operators' work is done."""
    from bichat.projections.processes import Database

    return Database(
        url=url(config), keys_url=keys_url(config), master_key=master_key(config),
        old_master_key=config.bichat_old_master_key, signing_key=config.bichat_signing_key,
        redis_url=config.redis_url,
    )  # fmt: skip


def check(config: Config) -> None:
    """Raises when the schema of the log or of the keys is not this code's."""
    with schema.connect(url(config)) as connection:
        schema.check(connection)
    with schema.connect(keys_url(config), name="KEYS_DATABASE_URL") as connection:
        schema.check(connection, schema.KEYS)


@contextmanager
def keys(config: Config) -> Iterator[KeyStore]:
    """The keys of the log; a store without any, beside a log with events, is not theirs."""
    with schema.connect(url(config)) as connection:
        new = not schema.has_events(connection)
    keys = KeyStore(keys_url(config), master_key(config), config.bichat_old_master_key)
    try:
        keys.unlock(new=new)
        yield keys
    finally:
        keys.close()


@contextmanager
def doorbell(config: Config) -> Iterator[Doorbell]:
    """The doorbell, closed in the end."""
    doorbell = Doorbell(redis_url(config), hot=config.bichat_cache)
    try:
        yield doorbell
    finally:
        doorbell.close()


def url(config: Config) -> str:
    """That of the log; raises `WrongSetting` when it is missing, as do the following."""
    if config.database_url is None:
        raise WrongSetting(name="DATABASE_URL", reason="is missing")
    return config.database_url


def keys_url(config: Config) -> str:
    """That of the keys store."""
    return config.keys_database_url or url(config)


def master_key(config: Config) -> bytes:
    """The master key."""
    if config.bichat_master_key is None:
        raise WrongSetting(name="BICHAT_MASTER_KEY", reason="is missing")
    return config.bichat_master_key


def redis_url(config: Config) -> str:
    """That of Redis."""
    if config.redis_url is None:
        raise WrongSetting(name="REDIS_URL", reason="is missing")
    return config.redis_url
