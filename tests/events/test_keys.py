"""Data keys: made once, unwrapped by one master key only, gone when destroyed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import AddMessage
from bichat.commands.execute import Once
from bichat.errors import EventUnreadable, LogUnavailable
from bichat.errors.unusable import WrongMasterKey
from bichat.events.keys.store import KeyStore
from tests.examples import MASTER_KEY, QUESTION, TENANT, by, opened, question, start, writing

WRAPPED = bytes.fromhex(
    "000102030405060708090a0bfa8cd1499c9f6b6cd3579fee0e374ac7df46992e8eba7033d8680ef3d262e48ca8f672d6aa244a07"
    "7b96fd84e4cec50f"
)
"""The key of 32 bytes 0 to 31, wrapped by `MASTER_KEY` for anna under the id `QUESTION`."""


@pytest.fixture
def keys(database_url: str) -> Iterator[KeyStore]:
    keys = KeyStore(database_url, MASTER_KEY)
    keys.unlock()
    yield keys
    keys.close()


def count(database_url: str, table: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(f"select count(*) from bichat_keys.{table}").fetchone()
        assert row is not None
        return int(row[0])


def test_another_master_key_is_refused_and_changes_nothing(keys: KeyStore, database_url: str) -> None:
    made = keys.person(TENANT, "anna")
    other = KeyStore(database_url, bytes(32))
    with pytest.raises(WrongMasterKey):
        other.unlock()
    other.close()
    assert count(database_url, "master") == 1
    again = KeyStore(database_url, MASTER_KEY)
    again.unlock()
    assert again.person(TENANT, "anna").key_id == made.key_id
    again.close()


def test_everyone_who_meets_a_person_at_once_gets_one_key(database_url: str) -> None:
    stores = [KeyStore(database_url, MASTER_KEY) for _ in range(6)]
    for store in stores:
        store.unlock()
    for n in range(5):
        with ThreadPoolExecutor(6) as pool:
            ids = set(pool.map(lambda store, who=f"p{n}": store.person(TENANT, who).key_id, stores))
        assert len(ids) == 1
    for store in stores:
        store.close()


def test_persons_of_two_tenants_are_two_persons(keys: KeyStore) -> None:
    assert keys.person(TENANT, "anna").key_id != keys.person(uuid7(), "anna").key_id


def test_a_destroyed_key_is_gone_and_the_next_one_is_another(keys: KeyStore, database_url: str) -> None:
    made = keys.person(TENANT, "anna")
    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat_keys.data_keys set wrapped = null, destroyed_at = now()")
    fresh = KeyStore(database_url, MASTER_KEY)
    fresh.unlock()
    assert fresh.by_id(made.key_id) is None
    assert fresh.person(TENANT, "anna").key_id != made.key_id
    fresh.close()


def test_what_is_not_there_is_asked_for_once(keys: KeyStore) -> None:
    missing = uuid7()
    assert keys.by_id(missing) is None
    keys.close()  # a second question to the database would now be an error
    assert keys.by_id(missing) is None


def test_what_was_wrapped_once_is_unwrapped_for_ever(keys: KeyStore, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into bichat_keys.data_keys (key_id, tenant_id, user_id, generation, master, wrapped)"
            " select %s, %s, 'anna', 1, fingerprint, %s from bichat_keys.master",
            (QUESTION, TENANT, WRAPPED),
        )
        (master,) = connection.execute("select fingerprint from bichat_keys.master").fetchone() or ("",)
    assert master == "258f9933de490668ebac1fe4b15dcfb5"
    digest = "4375b7cf69bae0e60c187a29ae4a29baa76068bb1d7dbe61e17eebcd1bc10b86"
    assert keys.person(TENANT, "anna").digest("request", b"what").hex() == digest


def test_a_wrapped_key_does_not_serve_another_person(keys: KeyStore, database_url: str) -> None:
    keys.person(TENANT, "anna")
    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat_keys.data_keys set user_id = 'eve'")
    fresh = KeyStore(database_url, MASTER_KEY)
    fresh.unlock()
    with pytest.raises(LogUnavailable, match="damaged"):
        fresh.person(TENANT, "eve")
    fresh.close()


@pytest.mark.parametrize(
    "damage", ["substr(wrapped, 1, 3)", "set_byte(wrapped, 20, 255 - get_byte(wrapped, 20))"]
)
def test_a_damaged_key_harms_nobody_else_and_is_not_taken_for_a_destroyed_one(
    database_url: str, damage: str
) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:
        once = Once("key", b"a")
        mine, theirs = start(), start(user="bob")
        asyncio.run(executor.execute(mine, by(), once=once))
        asyncio.run(executor.execute(theirs, by("bob"), once=once))
        assert asyncio.run(executor.execute(mine, by(), once=once)).replayed
    with psycopg.connect(database_url) as connection:
        connection.execute(
            f"update bichat_keys.data_keys set wrapped = {damage} where user_id = 'anna'".encode()
        )
    with opened(database_url) as ledger, writing(ledger) as executor:
        both: list[Any] = []

        async def together() -> None:
            said = [AddMessage(dialogue_id=c.dialogue_id, messages=(question(),)) for c in (mine, theirs)]
            sent = [
                (said[0], by(), None), (said[1], by("bob"), None),
                (mine, by(), once), (theirs, by("bob"), once),
            ]  # fmt: skip
            both.extend(
                await asyncio.gather(
                    *(executor.execute(command, who, once=key) for command, who, key in sent),
                    return_exceptions=True,
                )
            )

        asyncio.run(together())
        assert [isinstance(one, LogUnavailable) for one in both] == [True, False, True, False], both
        assert "damaged" in str(both[0])
        assert both[3].replayed
        with pytest.raises(EventUnreadable, match="the key of the field label is damaged"):
            ledger.read(mine.dialogue_id)
        assert len(ledger.read(theirs.dialogue_id)) == 3
        ledger.keys.prepare([(TENANT, "anna"), (TENANT, "carl")])
        assert ledger.keys.held((TENANT, "carl"))
    assert count(database_url, "data_keys") == 3  # anna got no other that would hide it
