"""A person who asks over HTTP and hears how it ended, and what the log says of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from msgspec import Struct

from bench.place import MASTER_KEY
from bench.stack import Stack
from bichat.events.dialogue import (
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyCancelled,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.events.envelope import Fact
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger

ENDED = ("answered", "failed", "cancelled")
_OF_A_QUESTION = (
    FunctionCalled, FunctionReturned, ReplyCancelled, ReplyFailed, ReplyRequeued, ReplyStarted
)  # fmt: skip


class Asked(Struct, frozen=True):
    """A question that was accepted."""

    dialogue_id: UUID
    message_id: UUID


def client(bichat: Stack, user: str, *, timeout: float = 30, **claims: Any) -> httpx.Client:
    """A person with a token."""
    return httpx.Client(base_url=bichat.url, headers=bichat.headers(user, **claims), timeout=timeout)


def ask(person: httpx.Client, text: str, **settings: Any) -> Asked:
    """Opens a dialogue with a question."""
    return _accepted(person.post("/v1/dialogues", json={"message": text, **settings}))


def ask_more(person: httpx.Client, asked: Asked, text: str, **settings: Any) -> Asked:
    """One more question in its dialogue."""
    body = {"content": text, **settings}
    return _accepted(person.post(f"/v1/dialogues/{asked.dialogue_id}/messages", json=body))


def _accepted(told: httpx.Response) -> Asked:
    if told.status_code != 202:
        raise AssertionError(f"it was not accepted: {told.status_code} {told.text}")
    return Asked(UUID(told.json()["dialogue_id"]), UUID(told.json()["message_id"]))


def end(person: httpx.Client, asked: Asked, patience: float = 30) -> dict[str, Any]:
    """The question as its person reads it, once it has ended; as it stands when `patience` is over."""
    deadline = time.monotonic() + patience
    while True:
        told = person.get(f"/v1/dialogues/{asked.dialogue_id}")
        told.raise_for_status()
        shown = {message["id"]: message for message in told.json()["messages"]}
        question: dict[str, Any] = shown.get(str(asked.message_id), {"status": "not there yet"})
        if question["status"] in ENDED or time.monotonic() > deadline:
            return question
        time.sleep(0.1)


def told_by_stream(person: httpx.Client, asked: Asked) -> str:
    """All that the stream of a question tells that has ended: of another it would be without end."""
    return person.get(f"/v1/dialogues/{asked.dialogue_id}/stream?message_id={asked.message_id}").text


@contextmanager
def log(database_url: str) -> Iterator[Ledger]:
    """The log of a stack, to be read beside it."""
    keys = KeyStore(database_url, MASTER_KEY)
    keys.unlock()
    ledger = Ledger(database_url, keys)
    try:
        yield ledger
    finally:
        ledger.close()
        keys.close()


def facts(ledger: Ledger, asked: Asked) -> list[Fact]:
    """What happened to one question, from its asking on."""
    return [
        fact
        for fact in (event.fact for event in ledger.read(asked.dialogue_id))
        if (isinstance(fact, _OF_A_QUESTION) and fact.message_id == asked.message_id)
        or (isinstance(fact, MessageAdded) and fact.message_id == asked.message_id)
        or (isinstance(fact, MessageAdded) and fact.answers and fact.answers.message_id == asked.message_id)
    ]
