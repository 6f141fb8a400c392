"""Read models as the structs that clients see."""

from __future__ import annotations

from msgspec import UNSET

from bichat.api import schemas
from bichat.events import transcript
from bichat.events.dialogue import Usage
from bichat.events.dialogue_state import QuestionStatus
from bichat.projections import dialogues


def shown(message: transcript.Message, status: QuestionStatus | None = None) -> schemas.Message:
    """One message; what it does not have is left out."""
    return schemas.Message(
        id=message.id,
        seq=message.seq,
        role=message.role,
        content=message.content,
        at=message.at,
        name=UNSET if message.name == "" else message.name,
        reply_to=message.reply_to or UNSET,
        model=message.model or UNSET,
        finish_reason=message.finish_reason or UNSET,
        usage=_usage(message.usage) if message.usage else UNSET,
        status=status or UNSET,
        call_id=message.call_id or UNSET,
        arguments=UNSET if message.arguments == "" else message.arguments,
        failed=message.failed or UNSET,
    )


def _usage(usage: Usage) -> schemas.Usage:
    return schemas.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def messages(dialogue: transcript.Dialogue) -> list[schemas.Message]:
    """Its messages, the questions among them with how their replies stand."""
    return [shown(m, t.status if (t := dialogue.turns.get(m.id)) else None) for m in dialogue.messages]


def whole(dialogue: transcript.Dialogue) -> schemas.Dialogue:
    """A dialogue with its newest messages."""
    listed = messages(dialogue)
    newest = max(dialogue.turns.values(), key=lambda turn: turn.seq, default=None)
    return schemas.Dialogue(
        id=dialogue.id,
        tenant_id=dialogue.tenant_id,
        user_id=dialogue.user_id,
        label=dialogue.label,
        state=dialogue.state,  # type: ignore[arg-type]  # "none" is only before a dialogue starts
        version=dialogue.version,
        created_at=dialogue.created_at,
        updated_at=dialogue.updated_at,
        message_count=dialogue.message_count,
        status=newest.status if newest else UNSET,
        last_message=listed[-1] if listed else None,
        messages=listed,
    )


def listed(page: dialogues.Page) -> schemas.Dialogues:
    """A page of the list."""
    return schemas.Dialogues(
        data=[_header(entry) for entry in page.data],
        next=page.next,
        total=UNSET if page.total is None else page.total,
    )


def _header(entry: dialogues.Listed) -> schemas.Header:
    last = entry.last_message
    return schemas.Header(
        id=entry.id,
        tenant_id=entry.tenant_id,
        user_id=entry.user_id,
        label=entry.label,
        state=entry.state,  # type: ignore[arg-type]  # as above
        version=entry.version,
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        message_count=entry.message_count,
        status=entry.status or UNSET,
        last_message=shown(last, entry.status if last.asks else None) if last else None,
    )
