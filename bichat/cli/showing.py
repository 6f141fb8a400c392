"""Dialogues and attempts as text for a terminal, which nothing in them can steer."""

from __future__ import annotations

from datetime import datetime
from textwrap import indent
from typing import TYPE_CHECKING

from msgspec import UNSET

from bichat.terminal import line, printable

if TYPE_CHECKING:
    from bichat.audit.attempts import Attempt, Called
    from bichat.audit.request import Rebuilt
    from bichat.events.transcript import Dialogue, Message, Turn

ERASED = "[erased]"


def said(text: str | None) -> str:
    """A text as a paragraph of its own."""
    return indent(ERASED if text is None else printable(text), "    ")


def label(text: str | None) -> str:
    """A dialogue's label, in quotes."""
    return ERASED if text is None else f'"{line(text)}"' if text else "without a label"


def clock(at: datetime) -> str:
    """A time as people read it, in UTC."""
    return at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def tokens(usage: object) -> str:
    """What was spent."""
    prompt, completion = getattr(usage, "prompt_tokens", 0), getattr(usage, "completion_tokens", 0)
    return f"{prompt:,} + {completion:,} tokens"


def dialogue_told(dialogue: Dialogue) -> str:
    """A whole dialogue."""
    erased = f", erased at version {dialogue.erased}" if dialogue.erased else ""
    lines = [
        f"{label(dialogue.label)}, of {line(dialogue.user_id)}: {dialogue.state}{erased}",
        f"{dialogue.id}, version {dialogue.version} of {clock(dialogue.updated_at)} UTC, "
        f"begun {clock(dialogue.created_at)}, {dialogue.message_count:,} messages",
    ]
    for message in dialogue.messages:
        call = message.call_id and message.content == ""
        lines += ["", _head(message), said(message.arguments if call else message.content)]
        if turn := dialogue.turns.get(message.id):
            lines += _turn(turn)
    return "\n".join(lines)


def _head(message: Message) -> str:
    name = f" ({line(message.name)})" if message.name else ""
    if message.call_id:
        returned = "failed" if message.failed else "returned" if message.content != "" else "called"
        name = f"{name} {returned}"
    model = f", {line(message.model)}" if message.model else ""
    spent = f", {tokens(message.usage)}" if message.usage else ""
    return f"#{message.seq} {message.role}{name}, {clock(message.at)}{model}{spent}"


def _turn(turn: Turn) -> list[str]:
    if turn.status == "answered":
        return []
    why = f": {line(turn.code)}" if turn.code else ""
    told = [f"    -- {turn.status}, attempt {turn.attempt}{why}"]
    if turn.partial:
        told += ["    -- it had said:", said(turn.partial)]
    return told


def _call_told(call: Called) -> str:
    how = "not returned" if call.result is UNSET else "failed with" if call.failed else "returned"
    back = "" if call.result is UNSET else f"\n{said(call.result)}"
    head = f"\nround {call.round}, version {call.version}: {line(call.name)} called with"
    return f"{head}\n{said(call.arguments)}\n  {how}{back}"


def attempt_told(one: Attempt, sent: Rebuilt) -> str:
    """What the model was shown, and whether that is what the log's digest says."""
    shown = one.messages
    between = (
        f", versions {shown.first.version} to {shown.last.version}" if shown.first and shown.last else ""
    )
    limits = {"max_tokens": one.max_tokens, "temperature": one.temperature, "top_p": one.top_p}
    given = "".join(f", {name} {value}" for name, value in limits.items() if isinstance(value, (int, float)))
    spent = f", {tokens(one.usage)}" if one.usage else ""
    verdict = {
        "matches": "the digest in the log matches the request below",
        "differs": "THE DIGEST IN THE LOG DIFFERS from that of the request below",
        "erased": "its text was erased: nobody can tell any more what was sent",
    }
    lines = [
        f"attempt {one.attempt} at {one.message_id}, {clock(one.at)} UTC, version {one.version}",
        f"model {line(one.model)}{given}, asked by {line(one.worker)}",
        f"shown: prompt {line(one.prompt)} v{one.prompt_version},"
        f" {shown.count} messages{between}, as of version {one.as_of}",
        f"functions: {', '.join(one.functions) or 'none'}",
        f"ended: {one.ended}{spent}",
        f"digest {one.request_digest}: {verdict[sent.digest]}",
    ]
    for message in sent.request.messages if sent.request else ():
        lines += [
            "",
            f"{message.role}{f' ({line(message.name)})' if message.name else ''}",
            said(message.content),
        ]
    lines += map(_call_told, sent.calls)
    return "\n".join(lines)
