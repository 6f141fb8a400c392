"""Keys are renewed and wrapped anew while others work; nothing becomes unreadable on the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import AddMessage
from bichat.errors import LogUnavailable
from bichat.errors.unusable import KeysDamaged, KeysMissing, WrongMasterKey
from bichat.events.dialogue import MessageAdded
from bichat.events.envelope import Actor
from bichat.events.keys import register, rotation
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.events.proof.signing import Signer
from tests.examples import MASTER_KEY, OTHER_TENANT, TENANT, by, opened, question, start, writing

OTHER_KEY = bytes(range(32, 64))


def unsaid(step: str, done: int, total: int) -> None:
    """Nobody looks."""


@pytest.fixture
def keys(database_url: str) -> Iterator[KeyStore]:
    keys = KeyStore(database_url, MASTER_KEY)
    keys.unlock()
    yield keys
    keys.close()


def masters(database_url: str) -> tuple[int, int]:
    """How many wrap something, and how many are not retired."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select (select count(distinct master) from bichat_keys.data_keys where wrapped is not null),"
            " (select count(*) from bichat_keys.master where retired_at is null)"
        ).fetchone()
        assert found
        return found


def test_a_renewed_key_seals_and_the_old_one_still_opens(keys: KeyStore, database_url: str) -> None:
    other = KeyStore(database_url, MASTER_KEY)
    other.unlock()
    old, alien = other.person(TENANT, "anna"), other.person(OTHER_TENANT, "anna")
    bob = other.person(TENANT, "bob")
    assert rotation.renew(keys, rotation.now(keys), TENANT, "anna", unsaid) == 1
    new = keys.person(TENANT, "anna")
    assert new.key_id != old.key_id
    assert [key.key_id for key in keys.generations(TENANT, "anna")] == [new.key_id, old.key_id]
    assert other.person(TENANT, "anna") is old
    other.look()
    assert other.person(TENANT, "anna").key_id == new.key_id
    assert other.by_id(old.key_id) is old
    assert other.person(TENANT, "bob") is bob
    assert other.person(OTHER_TENANT, "anna") is alien
    other.close()


def test_all_keys_are_renewed_once_from_a_moment_on(keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_CHUNK", 2)
    monkeypatch.setattr(rotation, "_NEXT", rotation._NEXT.replace("limit 1000", "limit 2"))
    keys.prepare((TENANT, f"p{n}") for n in range(5))
    keys.prepare([(OTHER_TENANT, "p0")])
    then, told = rotation.now(keys), list[tuple[int, int]]()
    assert rotation.renew(keys, then, TENANT, None, lambda _, done, total: told.append((done, total))) == 5
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert rotation.renew(keys, then, None, None, unsaid) == 1  # the other tenant's: it goes on
    assert rotation.renew(keys, then, None, None, unsaid) == 0
    assert rotation.renew(keys, rotation.now(keys), None, None, unsaid) == 6


def test_nobody_who_is_being_forgotten_or_was_gets_a_key(keys: KeyStore) -> None:
    keys.prepare([(TENANT, "anna"), (TENANT, "bob")])
    olga = Actor("user", "olga")
    anna = register.ordered(keys, register.ask(keys, TENANT, "anna", olga))
    assert rotation.renew(keys, rotation.now(keys), None, None, unsaid) == 1
    assert len(keys.generations(TENANT, "anna")) == 1
    register.destroy(keys, anna, 0, [])
    assert rotation.renew(keys, rotation.now(keys), None, None, unsaid) == 1
    assert keys.generations(TENANT, "anna") == []


def test_another_master_wraps_all_and_the_old_one_opens_nothing(keys: KeyStore, database_url: str) -> None:
    ids = [keys.person(TENANT, f"p{n}").key_id for n in range(3)]
    signs = Signer(keys).key().public_key()
    both = KeyStore(database_url, OTHER_KEY, MASTER_KEY)
    both.unlock()
    made = both.person(TENANT, "before").key_id  # by the old one, as long as others know no other
    assert keys.by_id(made)
    assert rotation.rewrap(both, unsaid) == 5
    assert rotation.rewrap(both, unsaid) == 0
    assert masters(database_url) == (1, 1)
    both.close()
    new = KeyStore(database_url, OTHER_KEY)
    new.unlock()
    assert all(new.by_id(key_id) for key_id in [*ids, made])
    assert Signer(new).key().public_key() == signs
    new.close()
    late = KeyStore(database_url, MASTER_KEY)
    with pytest.raises(WrongMasterKey):
        late.unlock()
    late.close()
    assert keys.by_id(ids[0])  # what it holds it has
    with pytest.raises(LogUnavailable, match="master key"):
        keys.person(TENANT, "somebody new")


def test_a_change_of_masters_that_was_broken_off_needs_both_and_goes_on(
    keys: KeyStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "_CHUNK", 2)
    ids = [keys.person(TENANT, f"p{n}").key_id for n in range(6)]
    both = KeyStore(database_url, OTHER_KEY, MASTER_KEY)
    both.unlock()

    def die(step: str, done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotation.rewrap(both, die)
    assert masters(database_url) == (2, 2)
    for one in (MASTER_KEY, OTHER_KEY):
        alone = KeyStore(database_url, one)
        with pytest.raises(WrongMasterKey):
            alone.unlock()
        alone.close()
    again = KeyStore(database_url, OTHER_KEY, MASTER_KEY)
    again.unlock()
    assert all(again.by_id(key_id) for key_id in ids)
    assert rotation.rewrap(again, unsaid) == 2
    assert masters(database_url) == (1, 1)
    again.close()
    both.close()


def test_a_damaged_key_is_named_and_keeps_no_other_from_the_new_master(
    keys: KeyStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "_CHUNK", 2)
    ids = [keys.person(TENANT, f"p{n}").key_id for n in range(5)]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update bichat_keys.data_keys set wrapped = substr(wrapped, 2) where user_id in ('p0', 'p1')"
        )
    both = KeyStore(database_url, OTHER_KEY, MASTER_KEY)
    both.unlock()
    with pytest.raises(KeysDamaged) as told:
        rotation.rewrap(both, unsaid)
    assert all(f"{ids[n]} of 'p{n}' of tenant {TENANT}" in str(told.value) for n in (0, 1))
    assert str(ids[2]) not in str(told.value)
    assert masters(database_url) == (2, 2)  # as nobody knows which of them opened it
    for n in (0, 1):
        gone = register.ordered(both, register.ask(both, TENANT, f"p{n}", Actor("user", "olga")))
        register.destroy(both, gone, 0, [])
    assert rotation.rewrap(both, unsaid) == 0
    assert masters(database_url) == (1, 1)
    both.close()
    new = KeyStore(database_url, OTHER_KEY)
    new.unlock()
    assert all(new.by_id(key_id) for key_id in ids[2:])
    new.close()


def test_a_master_that_is_taken_back_wraps_again(keys: KeyStore, database_url: str) -> None:
    key_id = keys.person(TENANT, "anna").key_id
    for new, old in ((OTHER_KEY, MASTER_KEY), (MASTER_KEY, OTHER_KEY)):
        both = KeyStore(database_url, new, old)
        both.unlock()
        assert rotation.rewrap(both, unsaid) == 1
        both.close()
    first = KeyStore(database_url, MASTER_KEY)
    first.unlock()
    assert first.by_id(key_id)
    first.close()


def test_writers_notice_nothing(database_url: str) -> None:
    """Messages of several people from a process with both masters, while all keys change twice over."""

    def said(ledger: Ledger, dialogue_id: UUID) -> list[str | None]:
        return [e.fact.content for e in ledger.read(dialogue_id) if isinstance(e.fact, MessageAdded)]

    first = KeyStore(database_url, MASTER_KEY)
    first.unlock()
    first.close()
    keys = KeyStore(database_url, OTHER_KEY, MASTER_KEY)
    keys.unlock()
    keys.watch()
    ledger = Ledger(database_url, keys)
    done = threading.Event()
    dialogues = {f"p{n}": uuid7() for n in range(4)}

    async def talk(executor: Any) -> int:
        for user, dialogue_id in dialogues.items():
            await executor.execute(start(dialogue_id, question("0"), user=user), by(user))
        count = 0
        while not done.is_set():
            count += 1
            for user, dialogue_id in dialogues.items():
                add = AddMessage(dialogue_id=dialogue_id, messages=(question(str(count)),))
                await executor.execute(add, by(user))
        return count

    with writing(ledger) as executor:
        counts: list[int] = []
        work = threading.Thread(target=lambda: counts.append(asyncio.run(talk(executor))))
        work.start()
        other = KeyStore(database_url, OTHER_KEY, MASTER_KEY)
        other.unlock()
        try:
            for _ in range(3):
                rotation.renew(other, rotation.now(other), None, None, unsaid)
                done.wait(0.6)
            rotation.rewrap(other, unsaid)
            rotation.renew(other, rotation.now(other), None, None, unsaid)
            done.wait(1.5)
        finally:
            done.set()
            work.join(20)
            other.close()
    for dialogue_id in dialogues.values():
        assert said(ledger, dialogue_id) == [str(n) for n in range(counts[0] + 1)]
    ledger.close()
    keys.close()
    fresh = KeyStore(database_url, OTHER_KEY)
    fresh.unlock()
    again = Ledger(database_url, fresh)
    assert said(again, dialogues["p0"]) == [str(n) for n in range(counts[0] + 1)]
    again.close()
    fresh.close()


def test_a_store_without_keys_is_not_taken_for_new_unless_it_may_be(database_url: str) -> None:
    keys = KeyStore(database_url, MASTER_KEY)
    with pytest.raises(KeysMissing):
        keys.unlock(new=False)
    keys.unlock(new=True)
    keys.unlock(new=False)
    keys.close()
    with opened(database_url) as ledger:
        assert ledger.keys.person(TENANT, "anna")
