"""How a dialogue goes: one person's commands and a worker's, in the order in which they come."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from bichat.commands.command import Command
from bichat.commands.dialogue import (
    AddMessage,
    ArchiveDialogue,
    CancelReply,
    DeleteDialogue,
    NewMessage,
    RenameDialogue,
    RestoreDialogue,
    RetryReply,
    StartDialogue,
    UnarchiveDialogue,
)
from bichat.commands.reply import CompleteReply, EndCancelledReply, FailReply, StartReply
from bichat.events.dialogue import Asked, Shown, Usage

Talk = Generator[Command, int, None]
"""Yields commands, and is sent the dialogue's version after each."""

MODELS = ("gpt-4o-mini", "gpt-4o", "o3-mini")
_WORDS = (
    "the of and to in is that for with as by on region sold most line second quarter how much which why our "
    "total margin customers orders late compare month year product returned price report table shows about "
    "invoice shipped größer naïve café 東京 average between first because however could please list three"
)
WORDS = _WORDS.split()


def talk(rng: Random, dialogue_id: UUID, user_id: str) -> Talk:
    """A dialogue of 1 to some 60 messages, one in 4,000 of 1,000 to 3,000."""
    turns = rng.randint(500, 1500) if rng.random() < 1 / 4000 else min(30, int(rng.expovariate(1 / 8)))
    first = question(rng, asks=turns > 0)
    note = (NewMessage(message_id=uuid7(), role="system", content=text(rng)),) if rng.random() < 0.05 else ()
    version = yield StartDialogue(dialogue_id=dialogue_id, user_id=user_id, messages=(*note, first))
    for turn in range(turns):
        if turn:
            first = question(rng, asks=True)
            version = yield AddMessage(dialogue_id=dialogue_id, messages=(first,))
        yield from reply(rng, dialogue_id, first.message_id, version, turn)
        if rng.random() < (0.3 if turn == 0 else 0.01):
            yield RenameDialogue(dialogue_id=dialogue_id, label=text(rng)[:40])
    yield from end(rng, dialogue_id)


def reply(rng: Random, dialogue_id: UUID, asked: UUID, version: int, turn: int) -> Talk:
    """What becomes of one question: most are answered at once."""
    if rng.random() < 0.005:
        yield CancelReply(dialogue_id=dialogue_id, message_id=asked)
        return
    model = rng.choice(MODELS)
    for attempt in range(1, 6):
        about: Any = {"dialogue_id": dialogue_id, "message_id": asked, "attempt": attempt}
        shown = Shown(as_of=version, messages=min(2 * turn + 1, 40), prompt="chat", prompt_version=1)
        digest = rng.randbytes(32).hex()
        yield StartReply(**about, model=model, shown=shown, request_digest=digest)
        chance, usage = rng.random(), spent(rng, turn)
        if chance < 0.94:
            answer: Any = {"answer_id": uuid7(), "content": text(rng), "model": f"{model}-2026-08-01"}
            yield CompleteReply(**about, **answer, finish_reason="stop", usage=usage)
            return
        if chance < 0.96:  # the model failed, and is asked again
            failed: Any = {"code": "model_silent", "detail": "no word for 30 s", "partial": text(rng)[:90]}
            yield FailReply(**about, **failed, usage=usage, final=False)
        elif chance < 0.98:  # it failed for good; half of the people ask again
            refused: Any = {"code": "model_refused", "detail": "status 400", "partial": ""}
            yield FailReply(**about, **refused, usage=Usage(), final=True)
            if rng.random() < 0.5:
                return
            yield RetryReply(dialogue_id=dialogue_id, message_id=asked)
        elif chance < 0.995:
            yield CancelReply(dialogue_id=dialogue_id, message_id=asked)
            yield EndCancelledReply(**about, partial=text(rng), usage=usage)
            return
        # Else its worker died, and another starts the next attempt.


def end(rng: Random, dialogue_id: UUID) -> Talk:
    """Some dialogues are put away or deleted; some of these come back."""
    chance = rng.random()
    if chance < 0.05:
        yield DeleteDialogue(dialogue_id=dialogue_id)
        if chance < 0.01:
            yield RestoreDialogue(dialogue_id=dialogue_id)
    elif chance < 0.12:
        yield ArchiveDialogue(dialogue_id=dialogue_id)
        if chance < 0.06:
            yield UnarchiveDialogue(dialogue_id=dialogue_id)
    elif chance < 0.13:  # deleted under a running reply, whose worker then says what it cost
        last = question(rng, asks=True)
        version = yield AddMessage(dialogue_id=dialogue_id, messages=(last,))
        about: Any = {"dialogue_id": dialogue_id, "message_id": last.message_id, "attempt": 1}
        shown = Shown(as_of=version, messages=1, prompt="chat", prompt_version=1)
        yield StartReply(**about, model=MODELS[0], shown=shown, request_digest=rng.randbytes(32).hex())
        yield DeleteDialogue(dialogue_id=dialogue_id)
        yield EndCancelledReply(**about, partial=text(rng), usage=spent(rng, 1))


def question(rng: Random, *, asks: bool) -> NewMessage:
    """Something a person says; nearly always a question."""
    return NewMessage(message_id=uuid7(), role="user", content=text(rng), asks=Asked() if asks else None)


def text(rng: Random) -> str:
    """40 to 800 characters."""
    long = rng.randint(40, 800)
    return " ".join(rng.choices(WORDS, k=long // 3))[:long]


def spent(rng: Random, turn: int) -> Usage:
    """Tokens of one call; a long dialogue shows the model more."""
    prompt, completion = 80 + 150 * min(turn, 20) + rng.randrange(100), rng.randrange(10, 200)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
