"""The small state that decisions on a dialogue are made on: without text, of one size at any length."""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

import immutables
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bichat.events.dialogue import (
    DialogueArchived,
    DialogueDeleted,
    DialogueLabelled,
    DialogueRenamed,
    DialogueRestored,
    DialogueStarted,
    DialogueUnarchived,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
    TextErased,
)
from bichat.events.envelope import Event

Lifecycle = Literal["none", "active", "archived", "deleted"]
QuestionStatus = Literal["waiting", "running", "answered", "failed", "cancelled"]


class Question(Struct, frozen=True, array_like=True):
    """A question without an answer."""

    version: int
    """Of its MessageAdded."""
    status: QuestionStatus = "waiting"
    attempt: int = 0
    """The last one started."""
    tries: int = 0
    """Attempts since it was asked or requeued."""
    cancel_requested: bool = False
    account_due: int = 0
    """The attempt that was ended from outside and whose worker has still to say what it cost."""
    off_peak: bool = False
    """It waits for the quiet hours, and holds nobody back."""


class DialogueState(Struct, frozen=True, kw_only=True):
    """What decisions need to know; answered questions are forgotten, so it stays small."""

    lifecycle: Lifecycle = "none"
    tenant_id: UUID | None = None
    user_id: str = ""
    message_count: int = 0
    unanswered: immutables.Map[UUID, Question] = immutables.Map()
    running: UUID | None = None
    has_text: bool = False
    """Something may have been said since the last erasure."""
    erased: int = 0
    """The version of the last erasure: text from before it is gone."""

    labelled: bool = False
    """It has a label, or had one: a model does not give it another."""

    fold_version: ClassVar[int] = 3

    @property
    def wants_label(self) -> bool:
        """Whether a model may give it a label: not out of forgotten text, nor if it is put away."""
        return self.lifecycle == "active" and not self.labelled and not self.erased

    @property
    def owner(self) -> str:
        """What is said in a dialogue is its person's, whoever says it."""
        return self.user_id

    @property
    def weight(self) -> int:
        """The questions without an answer."""
        return len(self.unanswered)

    def after(self, event: Event) -> DialogueState:
        """As `evolve`."""
        return evolve(self, event)

    def frozen(self) -> bytes:
        """As `freeze`."""
        return freeze(self)

    @classmethod
    def thawed(cls, data: bytes) -> DialogueState:
        """As `thaw`."""
        return thaw(data)


NOTHING = DialogueState()


def evolve(state: DialogueState, event: Event) -> DialogueState:  # noqa: PLR0911, PLR0912 - one arm per fact
    """The deciding state after `event`; pure, and blind to text."""
    match event.fact:
        case DialogueStarted(user_id=user_id, label=label):
            return DialogueState(
                lifecycle="active", tenant_id=event.tenant_id, user_id=user_id, has_text=True,
                labelled=label != "",
            )  # fmt: skip
        case MessageAdded() as said:
            return _said(state, said, event.version)
        case DialogueRenamed() | DialogueLabelled():
            return replace(state, has_text=True, labelled=True)
        case TextErased():
            return replace(state, has_text=False, erased=event.version)
        case DialogueDeleted():
            return replace(state, lifecycle="deleted")
        case DialogueArchived():
            return replace(state, lifecycle="archived")
        case DialogueRestored() | DialogueUnarchived():
            return replace(state, lifecycle="active")
        case ReplyStarted(message_id=asked, attempt=attempt):
            question = state.unanswered[asked]
            started = replace(question, status="running", attempt=attempt, tries=question.tries + 1)
            return replace(state, unanswered=state.unanswered.set(asked, started), running=asked)
        case ReplyFailed(message_id=asked, final=final):
            return _ended(state, asked, "failed" if final else "waiting")
        case ReplyCancelRequested(message_id=asked):
            wanted = replace(state.unanswered[asked], cancel_requested=True)
            return replace(state, unanswered=state.unanswered.set(asked, wanted))
        case ReplyCancelled(message_id=asked, attempt=attempt, account_due=due):
            return _ended(state, asked, "cancelled", attempt if due else 0)
        case ReplyAccounted(message_id=asked):
            told = replace(state.unanswered[asked], account_due=0)
            return replace(state, unanswered=state.unanswered.set(asked, told))
        case ReplyRequeued(message_id=asked):
            again = replace(state.unanswered[asked], status="waiting", tries=0)
            return replace(state, unanswered=state.unanswered.set(asked, again))
    return state


def _said(state: DialogueState, said: MessageAdded, version: int) -> DialogueState:
    unanswered, running = state.unanswered, state.running
    if said.asks is not None:
        unanswered = unanswered.set(
            said.message_id, Question(version, off_peak=said.asks.schedule == "off_peak")
        )
    if said.answers is not None:
        unanswered = unanswered.delete(said.answers.message_id)
        running = None if running == said.answers.message_id else running
    return replace(
        state, message_count=state.message_count + 1, unanswered=unanswered, running=running, has_text=True
    )


def _ended(state: DialogueState, asked: UUID, status: QuestionStatus, due: int = 0) -> DialogueState:
    ended = replace(
        state.unanswered[asked],
        status=status,
        account_due=due or state.unanswered[asked].account_due,
        # A wish to cancel outlives an attempt that failed on the way, not the reply's end.
        cancel_requested=status == "waiting" and state.unanswered[asked].cancel_requested,
    )
    running = None if state.running == asked else state.running
    return replace(state, unanswered=state.unanswered.set(asked, ended), running=running)


# --- the deciding state as stored in a snapshot ---------------------------------------------------


class _Frozen(Struct, frozen=True, kw_only=True):
    lifecycle: Lifecycle
    tenant_id: UUID | None
    user_id: str
    message_count: int
    unanswered: dict[UUID, Question]
    running: UUID | None
    has_text: bool
    erased: int
    labelled: bool


_frozen = msgspec.json.Decoder(_Frozen)


def freeze(state: DialogueState) -> bytes:
    """The state as JSON; small, because it has neither text nor answered questions."""
    values = {name: getattr(state, name) for name in state.__struct_fields__}
    return msgspec.json.encode(_Frozen(**values | {"unanswered": dict(state.unanswered)}))


def thaw(data: bytes) -> DialogueState:
    """What `freeze` wrote."""
    frozen = _frozen.decode(data)
    values = {name: getattr(frozen, name) for name in frozen.__struct_fields__}
    return DialogueState(**values | {"unanswered": immutables.Map(frozen.unanswered)})
