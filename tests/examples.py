"""Ready-made facts, commands and callers; ids are fixed where a test pins bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from bichat.commands.dialogue import NewMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.commands.reply import StartReply
from bichat.events.audit import AuditRead
from bichat.events.dialogue import (
    AnswerTo,
    Asked,
    DialogueArchived,
    DialogueDeleted,
    DialogueLabelled,
    DialogueRenamed,
    DialogueRestored,
    DialogueStarted,
    DialogueUnarchived,
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
    Shown,
    TextErased,
    Usage,
)
from bichat.events.envelope import Actor, Event, Fact, Metadata
from bichat.events.function import FunctionDescribed
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.events.person import ErasureOrdered, HoldPlaced, HoldReleased, PersonErased
from bichat.events.prompt import PromptChanged, PromptRemoved

TENANT = UUID("01a00000-0000-7000-8000-000000000001")
OTHER_TENANT = UUID("01a00000-0000-7000-8000-000000000002")
DIALOGUE = UUID("01a00000-0000-7000-8000-00000000000d")
QUESTION = UUID("01a00000-0000-7000-8000-00000000000a")
ANSWER = UUID("01a00000-0000-7000-8000-00000000000b")
COMMAND = UUID("01a00000-0000-7000-8000-00000000000c")
HOLD = UUID("01a00000-0000-7000-8000-00000000000e")
ERASURE = UUID("01a00000-0000-7000-8000-00000000000f")
CALL = UUID("01a00000-0000-7000-8000-000000000010")
RETURN = UUID("01a00000-0000-7000-8000-000000000011")
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
MASTER_KEY = bytes(range(32))

USAGE = Usage(prompt_tokens=12, completion_tokens=5, total_tokens=17)
SHOWN = Shown(as_of=2, messages=1, prompt="built-in", prompt_version=1)

FACTS: dict[str, Fact] = {
    "started": DialogueStarted(user_id="anna", label="Sales"),
    "asked": MessageAdded(message_id=QUESTION, role="user", content="How much?", name="Anna", asks=Asked()),
    "asked with settings": MessageAdded(
        message_id=QUESTION,
        role="system",
        content="Be brief.",
        asks=Asked(model="small", max_tokens=9, temperature=0.5, top_p=0.9, schedule="off_peak"),
    ),
    "answered": MessageAdded(
        message_id=ANSWER,
        role="assistant",
        content="A lot.",
        answers=AnswerTo(message_id=QUESTION, attempt=1, model="small", finish_reason="stop", usage=USAGE),
    ),
    "renamed": DialogueRenamed(label="Sales in May"),
    "labelled": DialogueLabelled(label="Sales", model="small", usage=USAGE),
    "function called": FunctionCalled(
        id=CALL, message_id=QUESTION, attempt=1, round=1, call_id="call_1", name="query",
        arguments='{"sql":"select 1"}', said="I look.",
    ),
    "function returned": FunctionReturned(
        id=RETURN, message_id=QUESTION, attempt=1, call_id="call_1", name="query", result="[1]", failed=True
    ),
    "prompt changed": PromptChanged(name="system", template="Be brief."),
    "prompt removed": PromptRemoved(name="system"),
    "function described": FunctionDescribed(name="query", digest="cd" * 32, schema="{}"),
    "deleted": DialogueDeleted(),
    "restored": DialogueRestored(),
    "archived": DialogueArchived(),
    "unarchived": DialogueUnarchived(),
    "reply started": ReplyStarted(
        message_id=QUESTION, attempt=1, model="small", temperature=0.5, shown=SHOWN, request_digest="ab" * 32
    ),
    "reply failed": ReplyFailed(
        message_id=QUESTION, attempt=1, code="model_cut_off", detail="no end", partial="A l", usage=USAGE,
        final=False,
    ),
    "cancel requested": ReplyCancelRequested(message_id=QUESTION),
    "cancelled": ReplyCancelled(message_id=QUESTION, attempt=1, partial="A", usage=USAGE),
    "cancelled while it ran": ReplyCancelled(message_id=QUESTION, attempt=1, account_due=True),
    "accounted": ReplyAccounted(message_id=QUESTION, attempt=1, partial="A", usage=USAGE),
    "requeued": ReplyRequeued(message_id=QUESTION),
    "erased": TextErased(),
    "hold placed": HoldPlaced(user_id="anna", hold_id=HOLD, reason="A lawsuit"),
    "hold placed on a dialogue": HoldPlaced(user_id="anna", hold_id=HOLD, dialogue_id=DIALOGUE),
    "hold released": HoldReleased(user_id="anna", hold_id=HOLD),
    "erasure ordered": ErasureOrdered(user_id="anna", erasure_id=ERASURE),
    "person erased": PersonErased(user_id="anna", erasure_id=ERASURE, dialogues=2, keys=1),
    "audit read": AuditRead(what="dialogue", dialogue_id=DIALOGUE, asked={"version": "7"}),
    "audit's feed read": AuditRead(what="feed"),
}  # fmt: skip
"""One of each kind, and of each form worth pinning."""


def by(user: str = "anna", tenant: UUID = TENANT) -> Metadata:
    """A person's command."""
    return Metadata(tenant_id=tenant, actor=Actor("user", user), command_id=uuid7())


def by_worker(tenant: UUID = TENANT) -> Metadata:
    """A worker's command."""
    return Metadata(tenant_id=tenant, actor=Actor("worker", "w1"), command_id=uuid7())


def question(content: str = "How much?", message_id: UUID | None = None) -> NewMessage:
    """A message that asks."""
    return NewMessage(message_id=message_id or uuid7(), role="user", content=content, asks=Asked())


def start(dialogue_id: UUID | None = None, *messages: NewMessage, user: str = "anna") -> StartDialogue:
    """Opens a dialogue, with a question unless messages are given."""
    return StartDialogue(
        dialogue_id=dialogue_id or uuid7(), user_id=user, messages=messages or (question(),), label="Sales"
    )


def start_reply(dialogue_id: UUID, message_id: UUID, attempt: int = 1) -> StartReply:
    """A worker's claim of an attempt."""
    return StartReply(
        dialogue_id=dialogue_id, message_id=message_id, attempt=attempt, model="small", shown=SHOWN,
        request_digest="ab" * 32,
    )  # fmt: skip


def events(facts: Iterable[Fact], dialogue_id: UUID = DIALOGUE, tenant: UUID = TENANT) -> list[Event]:
    """Facts as the log would give them, a second apart."""
    return [
        Event(
            stream_id=dialogue_id, version=n, position=n, tenant_id=tenant, command_id=COMMAND,
            actor=Actor("user", "anna"), at=NOON + timedelta(seconds=n), recorded_at=NOON, cause=None,
            trace="", fact=fact, hash=bytes(32),
        )
        for n, fact in enumerate(facts, 1)
    ]  # fmt: skip


@contextmanager
def opened(database_url: str, keys_url: str | None = None) -> Iterator[Ledger]:
    """The log of a migrated database, with its keys in there or elsewhere."""
    keys = KeyStore(keys_url or database_url, MASTER_KEY)
    keys.unlock()
    ledger = Ledger(database_url, keys)
    try:
        yield ledger
    finally:
        ledger.close()
        keys.close()


@contextmanager
def writing(ledger: Ledger) -> Iterator[Executor]:
    """A running writer."""
    executor = Executor(ledger)
    executor.start()
    try:
        yield executor
    finally:
        executor.close()
