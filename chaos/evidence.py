"""What is there afterwards: the log, opened; what bichat's verifications say of it; what the API shows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import psycopg
from msgspec import Struct

from bench.place import MASTER_KEY
from bench.stack import Stack
from bichat.events.dialogue import DialogueStarted
from bichat.events.envelope import Event
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger


class Log(Struct, frozen=True):
    """Every dialogue's events, in order."""

    dialogues: dict[UUID, list[Event]]

    def at(self, dialogue_id: UUID, version: int) -> Event | None:
        """The event of that version, if there is one."""
        events = self.dialogues.get(dialogue_id, [])
        return events[version - 1] if 0 < version <= len(events) else None


def read(database_url: str) -> Log:
    """The whole log."""
    keys = KeyStore(database_url, MASTER_KEY)
    keys.unlock()
    ledger = Ledger(database_url, keys)
    try:
        with psycopg.connect(database_url) as connection:
            ids = connection.execute("select distinct originator_id from bichat.stored_events").fetchall()
        streams = {stream_id: ledger.read(stream_id) for (stream_id,) in ids}
    finally:
        ledger.close()
        keys.close()
    return Log({i: events for i, events in streams.items() if isinstance(events[0].fact, DialogueStarted)})


def verified(stack: Stack) -> list[tuple[str, bool, str]]:
    """Every chain, and every read model beside a fold of the log, by the verbs that operators have."""
    found = []
    for words in (("audit", "verify"), ("projections", "verify")):
        done = stack.verb(*words, "--jobs", "1")
        found.append((" ".join(words), done.returncode == 0, (done.stdout + done.stderr).strip()))
    return found


def shown(stack: Stack, log: Log) -> dict[UUID, list[dict[str, Any]]]:
    """The messages of each dialogue as its person reads them now, page by page."""
    pages: dict[UUID, list[dict[str, Any]]] = {}
    with httpx.Client(base_url=f"{stack.url}/v1/dialogues", timeout=10) as client:
        for dialogue_id, events in log.dialogues.items():
            started = events[0].fact
            assert isinstance(started, DialogueStarted)
            headers, after = stack.headers(started.user_id), None
            pages[dialogue_id] = []
            while after or not pages[dialogue_id]:
                query: dict[str, str] = {"limit": "50", **({"after": after} if after else {})}
                told = client.get(f"/{dialogue_id}/messages", params=query, headers=headers).json()
                pages[dialogue_id] += told["data"]
                after = told["next"]
    return pages
