"""What a stream says: committed changes and words of a running reply each once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID
from zlib import crc32

from msgspec.structs import replace

from bichat.api.answers import shown
from bichat.api.sse import Mark, event
from bichat.deltas import Said
from bichat.events.transcript import Dialogue, Message, Turn
from bichat.projections.transcripts import Changes, Reply

UNKNOWN = 0
"""The face of a dialogue that has to be told anew."""


class Telling:
    """One stream's account of a dialogue, or of the reply to one question, `only`.

    At most one reply is being told, that to `question`: a dialogue has one at a time.
    """

    def __init__(self, dialogue_id: UUID, mark: Mark, only: UUID | None = None) -> None:
        self.mark = mark
        self.over = False
        """The end of the only reply was told."""
        self.behind = False
        """There is more to tell than was read at once."""
        self.question: UUID | None = only if mark.seq else None
        self.only = only
        self.dialogue_id = dialogue_id

    @property
    def waits(self) -> bool:
        """Whether a reply is awaited, so that its end must not be missed."""
        return bool(self.only or self.mark.seq)

    @property
    def attempt(self) -> tuple[UUID, int] | None:
        """The attempt whose words are being told."""
        return (self.question, self.mark.attempt) if self.question and self.mark.seq else None

    # --- committed changes ------------------------------------------------------------------------

    def begin(self, dialogue: Dialogue) -> Iterator[bytes]:
        """Starts now, at `dialogue`, or finds the running reply that `mark` is in the middle of."""
        resumed = self.mark.version > 0
        if not resumed:
            self.mark = replace(self.mark, version=dialogue.version, face=_face(dialogue))
        for turn in dialogue.turns.values():
            if turn.status == "running":
                if resumed and turn.seq == self.mark.seq:
                    self.question = turn.message_id
                elif not resumed:
                    yield from self._reply(turn, None, dialogue.version)

    def dialogue(self, changes: Changes) -> Iterator[bytes]:
        """The changes since `mark.version`, in the order in which they were committed."""
        dialogue, self.behind = changes.dialogue, changes.upto < changes.dialogue.version
        if self.mark.version < dialogue.erased <= dialogue.version:
            self.mark = replace(self.mark, face=UNKNOWN)  # what was told is blank now: it has changed
        answers = {m.version: m for m in dialogue.messages if m.reply_to and not m.call_id}
        news: list[Message | Turn] = [m for m in dialogue.messages if m.call_id or not m.reply_to]
        news += [turn for turn in dialogue.turns.values() if turn.version > self.mark.version]
        for item in sorted(news, key=lambda item: item.version):
            if isinstance(item, Turn):
                yield from self._reply(item, answers.get(item.version), item.version)
            elif item.reply_to:
                yield from self._call(item, dialogue.turns.get(item.reply_to))
            else:
                self._at(item.version)
                yield self._event(
                    "message.added", item.id, 0, message=shown(item, "waiting" if item.asks else None)
                )
        self._at(changes.upto)
        if not self.behind and self.mark.face != _face(dialogue):
            self.mark = replace(self.mark, face=_face(dialogue))
            changed = {"version": dialogue.version, "state": dialogue.state, "label": dialogue.label}
            yield self._event("dialogue.changed", None, 0, **changed)

    def reply(self, reply: Reply) -> Iterator[bytes]:
        """How the one reply of this stream stands now."""
        turn = reply.turn
        if self.mark.seq not in (0, turn.seq):  # the mark is of a stream that followed another reply
            self.mark = replace(self.mark, seq=0, attempt=0, segments=0)
        for call in reply.calls:
            yield from self._call(call, turn)
        if turn.version > self.mark.version or (turn.status == "running" and self._stale(turn)):
            yield from self._reply(turn, reply.answer, turn.version)
        elif turn.status in ("answered", "failed", "cancelled"):
            self.over = True  # its end was told before

    def _reply(self, turn: Turn, answer: Message | None, version: int) -> Iterator[bytes]:
        yield from self._begun(turn, version if turn.status == "running" else turn.version - 1)
        self._at(version)  # an end comes after this: who has heard a start only resumes before it
        if turn.status in ("answered", "failed", "cancelled"):
            yield self._ended(turn, answer)

    def _begun(self, turn: Turn, version: int) -> Iterator[bytes]:
        """That an attempt was given up, and that the last one has begun, unless that was told."""
        told = self.mark.seq == turn.seq
        self._at(min(version, turn.version - 1))
        if told and (turn.attempt != self.mark.attempt or turn.status == "waiting"):
            yield self._close("reply.superseded", turn, self.mark.attempt)
        self._at(version)
        begun = turn.status in ("running", "answered", "failed") and turn.attempt
        if begun and not self.mark.seq:
            self.question = turn.message_id
            self.mark = replace(self.mark, seq=turn.seq, attempt=turn.attempt, segments=0)
            yield self._event("reply.started", turn.message_id, turn.attempt, model=turn.model)

    def _call(self, call: Message, turn: Turn | None) -> Iterator[bytes]:
        """A function that the last attempt called, or what it returned; `turn` unless its start was told."""
        if turn and turn.attempt == call.attempt:
            yield from self._begun(turn, call.version - 1)
        if call.reply_to and self.attempt == (call.reply_to, call.attempt):
            self._at(call.version)
            told = {"call_id": call.call_id, "name": call.name}
            if call.content == "":  # what a function returns is JSON, and so is not empty
                called = told | {"arguments": call.arguments}
                yield self._event("tool.called", call.reply_to, call.attempt, **called)
            else:
                returned = told | {"result": call.content, "failed": call.failed}
                yield self._event("tool.returned", call.reply_to, call.attempt, **returned)

    def _ended(self, turn: Turn, answer: Message | None) -> bytes:
        told: dict[str, Any]
        if turn.status == "answered" and answer:
            kind, told = "reply.completed", {"message": shown(answer)}
        elif turn.status == "failed":
            error = {"code": turn.code, "detail": turn.detail}
            kind, told = "reply.failed", {"error": error, "partial": turn.partial}
        else:
            kind, told = "reply.cancelled", {"partial": turn.partial}
        self.over = turn.message_id == self.only
        return self._close(kind, turn, turn.attempt, **told, version=turn.version, position=turn.position)

    def _close(self, kind: str, turn: Turn, attempt: int, **told: object) -> bytes:
        if self.mark.seq == turn.seq:  # not when a question that waits is cancelled meanwhile
            self.mark = replace(self.mark, seq=0, attempt=0, segments=0)
            self.question = None
        return self._event(kind, turn.message_id, attempt, **told)

    def _stale(self, turn: Turn) -> bool:
        return (turn.seq, turn.attempt) != (self.mark.seq, self.mark.attempt)

    # --- words ------------------------------------------------------------------------------------

    def expects(self, said: Said) -> bool:
        """Whether these are the next words of the reply being told."""
        return self.attempt == (said.message_id, said.attempt) and said.n == self.mark.segments + 1

    def misses(self, said: Said) -> bool:
        """Whether words of the reply being told were lost before these."""
        return self.attempt == (said.message_id, said.attempt) and said.n > self.mark.segments + 1

    def unheard_of(self, said: Said) -> bool:
        """Whether these are words of an attempt whose start was not told: it is not read yet, or given up."""
        return self.only in (None, said.message_id) and self.attempt != (said.message_id, said.attempt)

    def said(self, said: Said) -> bytes:
        """The next words."""
        self.mark = replace(self.mark, segments=said.n)
        return self._event("reply.delta", said.message_id, said.attempt, text=said.text)

    # --- as SSE -----------------------------------------------------------------------------------

    def _at(self, version: int) -> None:
        if version > self.mark.version:
            self.mark = replace(self.mark, version=version)

    def _event(self, kind: str, message_id: UUID | None, attempt: int, **told: object) -> bytes:
        self.mark = replace(self.mark, number=self.mark.number + 1)
        data = {
            "type": kind, "dialogue_id": self.dialogue_id, "message_id": message_id, "attempt": attempt,
            "sequence_number": self.mark.number, **told,
        }  # fmt: skip
        return event(self.mark, kind, data)


def _face(dialogue: Dialogue) -> int:
    return crc32(f"{dialogue.state} {dialogue.label}".encode())
