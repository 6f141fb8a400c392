"""`bichat audit play`: a conversation unfolding in the terminal, with what went on between the messages."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from bichat.cli.auditing import read
from bichat.cli.showing import ERASED, clock, label, said
from bichat.terminal import line

if TYPE_CHECKING:
    from bichat.audit.auditor import Auditor
    from bichat.events.history import AuditEvent

PAGE = 500
LONGEST_PAUSE = 10.0
"""Seconds of waiting between two events at most, however long it was."""


@click.command()
@click.argument("dialogue_id", metavar="ID", type=click.UUID)
@click.option("--all", "at_once", is_flag=True, help="All at once.")
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), help="By itself, so many times as fast as it was."
)
def play(dialogue_id: UUID, at_once: bool, speed: float | None) -> None:
    """Play the conversation ID: step by step, a key for each, q to stop.

    Between the messages stand attempts, failures, cancellations, tools and tokens, whatever became of the
    dialogue. Where there is no terminal, all at once.
    """
    told = Story().told(read(lambda auditor: _events(auditor, dialogue_id), dialogue_id=dialogue_id))
    stepping = sys.stdin.isatty() and sys.stdout.isatty() and not at_once and not speed
    before: datetime | None = None
    for at, text in told:
        if speed and before and at and not at_once:
            time.sleep(min(LONGEST_PAUSE, (at - before) / timedelta(seconds=1) / speed))
        before = at or before
        click.echo(text)
        if stepping and click.getchar() in ("q", "Q", "\x04"):
            return


async def _events(auditor: Auditor, dialogue_id: UUID) -> list[AuditEvent]:
    found: list[AuditEvent] = []
    after: int | None = 0
    while after is not None:
        page = await auditor.events(dialogue_id, after, PAGE)
        found += page.data
        after = page.next
    return found


class Story:
    """Tells events one by one, and counts on the way."""

    def __init__(self) -> None:
        self._seq = itertools.count(1)
        self._asked: dict[str, int] = {}
        """The numbers of the messages."""
        self._attempts = self._prompt = self._completion = self._events = 0

    def told(self, events: list[AuditEvent]) -> Iterator[tuple[datetime | None, str]]:
        """When something happened, and what, in words."""
        before: datetime | None = None
        for event in events:
            self._events += 1
            yield event.at, f"{_passed(before, event.at)}{self._event(event)}"
            before = event.at or before
        yield (
            None,
            (
                f"-- the end: {_many(self._events, 'event')}, {_many(self._attempts, 'attempt')},"
                f" {self._prompt:,} + {self._completion:,} tokens"
            ),
        )

    def _event(self, event: AuditEvent) -> str:  # noqa: PLR0911 - one arm per kind
        data = event.data
        if data is None:
            return f"-- version {event.version} cannot be read: {line(str(event.unreadable))}"
        match event.type:
            case "MessageAdded":
                return self._message(data)
            case "FunctionCalled" | "FunctionReturned":
                return self._function(data)
            case "ReplyStarted":
                self._attempts += 1
                return self._attempt(event, data)
            case "DialogueLabelled":
                return f"-- {_who(event)} calls it {label(data['label'])}{self._spent(data)}"
            case "ReplyFailed" | "ReplyCancelled" | "ReplyAccounted":
                return self._ended(event, data)
            case "ReplyCancelRequested" | "ReplyRequeued":
                wanted = "asks again for" if event.type == "ReplyRequeued" else "wants to stop"
                return f"-- {_who(event)} {wanted} the reply to {self._number(data)}"
        return _changed(event, data)

    def _message(self, data: dict[str, Any]) -> str:
        seq = self._asked[data["message_id"]] = next(self._seq)
        name = f" ({line(data['name'])})" if data.get("name") else ""
        about = ""
        if answers := data.get("answers"):
            about = f" to {self._number(answers)}, {line(answers['model'])}{self._spent(answers)}"
            about += f", {line(reason)}" if (reason := answers.get("finish_reason")) else ""
        return f"#{seq} {data['role']}{name}{about}\n{said(data['content'])}"

    def _function(self, data: dict[str, Any]) -> str:
        seq, name = next(self._seq), line(data["name"])
        if "arguments" in data:
            aside = f"{said(data['said'])}\n" if data.get("said", "") != "" else ""
            return f"{aside}#{seq} calls {name} with\n{said(data['arguments'])}"
        how = "fails with" if data.get("failed") else "returns"
        return f"#{seq} {name} {how}\n{said(data['result'])}"

    def _attempt(self, event: AuditEvent, data: dict[str, Any]) -> str:
        shown = data["shown"]
        tools = f", {_many(len(shown['functions']), 'function')}" if shown.get("functions") else ""
        return (
            f"-- attempt {data['attempt']} at {self._number(data)}: {line(data['model'])} is shown"
            f" {_many(shown['messages'], 'message')}{tools},"
            f" prompt {line(shown['prompt'])} v{shown['prompt_version']} ({_who(event)})"
        )

    def _ended(self, event: AuditEvent, data: dict[str, Any]) -> str:
        how = {
            "ReplyFailed": f"failed: {line(data.get('code', ''))}",
            "ReplyCancelled": f"was cancelled by {_who(event)}",
            "ReplyAccounted": "is accounted for",
        }[event.type]
        detail = f" ({_text(data['detail'])})" if data.get("detail", "") != "" else ""
        again = ", it will be tried again" if data.get("final") is False else ""
        told = f"-- attempt {data['attempt']} at {self._number(data)} {how}{detail}{again}{self._spent(data)}"
        return f"{told}, it had said:\n{said(data['partial'])}" if data.get("partial", "") != "" else told

    def _spent(self, data: dict[str, Any]) -> str:
        usage = data.get("usage", {})
        prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        self._prompt, self._completion = self._prompt + prompt, self._completion + completion
        return f", {prompt:,} + {completion:,} tokens" if usage else ""

    def _number(self, data: dict[str, Any]) -> str:
        return f"#{self._asked.get(data['message_id'], '?')}"


def _changed(event: AuditEvent, data: dict[str, Any]) -> str:
    named = label(data.get("label", ""))
    told = {
        "DialogueStarted": f"opens a dialogue, {named}",
        "DialogueRenamed": f"calls it {named}",
        "DialogueDeleted": "deletes the dialogue",
        "DialogueRestored": "restores the dialogue",
        "DialogueArchived": "archives the dialogue",
        "DialogueUnarchived": "takes the dialogue out of the archive",
        "TextErased": "forgets the person: all text from before is gone",
    }
    return f"-- {_who(event)} {told.get(event.type, event.type)}"


def _who(event: AuditEvent) -> str:
    actor = event.actor
    if actor is None:
        return "nobody knows who"
    return line(actor.id) if actor.kind == "user" else f"{actor.kind} {line(actor.id)}"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _text(text: str | None) -> str:
    return ERASED if text is None else line(text)


def _passed(before: datetime | None, at: datetime | None) -> str:
    """The time, on a line of its own, when it has moved on by more than a moment."""
    if at is None or (before and at - before < timedelta(seconds=1)):
        return ""
    since = f", {timedelta(seconds=int((at - before).total_seconds()))} later" if before else ""
    return f"\n{clock(at)} UTC{since}\n"
