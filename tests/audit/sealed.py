"""A log with one dialogue to be tampered with among others, sealed twice and going on; and what tampers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import Connection

from bichat.audit.checking import Single, single
from bichat.commands.command import Command
from bichat.commands.dialogue import AddMessage, RenameDialogue
from bichat.events import schema
from bichat.events.ledger import Ledger
from bichat.events.proof import sealing
from bichat.events.proof.signing import Signer
from bichat.events.seal import GENESIS, Place, chain
from tests.examples import DIALOGUE, OTHER_TENANT, TENANT, by, opened, question, start, writing

OTHER = UUID("01a00000-0000-7000-8000-00000000000e")
SEALED, END = 6, 7
"""Versions of the dialogue: up to where seals go, and its last."""


class Log(Struct, frozen=True):
    """What a test tampers with."""

    url: str
    ledger: Ledger

    @property
    def signer(self) -> Signer:
        return Signer(self.ledger.keys)

    def execute(self, *commands: Command, tenant: UUID = TENANT) -> None:
        async def all_of_them() -> None:
            with writing(self.ledger) as executor:
                for command in commands:
                    await executor.execute(command, by(tenant=tenant))

        asyncio.run(all_of_them())

    def seal(self) -> None:
        with schema.connect(self.url) as connection:
            assert list(sealing.seal_all(connection, self.signer))

    def check(self, stream_id: UUID = DIALOGUE, **given: Any) -> Single:
        remembered = self.signer.remembered()
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = single(connection, remembered, stream_id, **given)
        assert found
        return found


@contextmanager
def sealed(url: str) -> Iterator[Log]:
    """Seal 1 is over versions 1 to 3, seal 2 over 4 to 6, version 7 is not sealed."""
    with opened(url) as ledger:
        log = Log(url, ledger)
        log.execute(start(DIALOGUE), start(OTHER), start())
        log.execute(start(), tenant=OTHER_TENANT)
        log.execute(RenameDialogue(dialogue_id=DIALOGUE, label="A"))
        log.seal()
        log.execute(
            RenameDialogue(dialogue_id=DIALOGUE, label="B"),
            AddMessage(dialogue_id=DIALOGUE, messages=(question("And why?"),)),
            RenameDialogue(dialogue_id=DIALOGUE, label="C"), start(),
        )  # fmt: skip
        log.seal()
        log.execute(RenameDialogue(dialogue_id=DIALOGUE, label="D"))
        yield log


def hash_anew(connection: Connection[Any], stream_id: UUID = DIALOGUE, after: int = 0) -> None:
    """What an attacker does who knows how events are chained."""
    rows = connection.execute(
        "select originator_version, tenant_id, topic, command_id, state, hash from bichat.stored_events"
        " where originator_id = %s order by 1",
        (stream_id,),
    ).fetchall()
    previous = GENESIS
    for version, tenant_id, topic, command_id, state, hash_ in rows:
        if version > after:
            place = Place(tenant_id, stream_id, version, topic)
            hash_ = chain(previous, place, command_id, state)  # noqa: PLW2901
            connection.execute(
                "update bichat.stored_events set hash = %s"
                " where (originator_id, originator_version) = (%s, %s)",
                (hash_, stream_id, version),
            )
        previous = hash_
