"""`bichat audit`: what happened, who did it and when, a dialogue as it was, and what the model was shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
import msgspec

from bichat.cli.auditing import Moment, read
from bichat.cli.output import as_json, json_text, table
from bichat.cli.play import play
from bichat.cli.showing import attempt_told, dialogue_told
from bichat.terminal import line

if TYPE_CHECKING:
    from bichat.audit.auditor import Auditor
    from bichat.audit.feed import Wanted
    from bichat.events.history import AuditEvent

PAGE = 500
"""Events read at once."""


@click.group()
def audit() -> None:
    """What happened, who did it, and when; a dialogue as it was; what the model was shown.

    Deleted, archived and erased dialogues too. Every reading is itself recorded, before anything is shown.
    """


@audit.command()
@click.option("--dialogue", "dialogue_id", type=click.UUID, help="Only of this dialogue.")
@click.option("--tenant", type=click.UUID, help="Whose; can be left out where there is only one.")
@click.option("--type", "kind", help="Only of this kind, as in MessageAdded.")
@click.option("--user", help="Only what this person did.")
@click.option("--since", type=Moment(), help="From this time on, as in 2026-11-22T12:00:00Z.")
@click.option("--until", type=Moment(), help="Before this time.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
def events(
    *, dialogue_id: UUID | None, tenant: UUID | None, kind: str | None, user: str | None,
    since: datetime | None, until: datetime | None, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List what happened, in order: who, when, by which command.

    In a dialogue, or in all of a tenant: then the streams about persons (holds, erasures) and about
    readings of the audit are shown too.
    """
    from bichat.audit.feed import Wanted
    from bichat.events import envelope

    kinds = [name for name, _ in envelope.kinds()]
    if kind is not None and kind not in kinds:
        raise click.BadParameter(f"is none of {', '.join(kinds)}", param_hint="--type")
    wanted = Wanted(type=kind, user_id=user, since=since, until=until)

    async def work(auditor: Auditor) -> tuple[list[AuditEvent], bool]:
        if dialogue_id is None:
            return await _feed(auditor, wanted, limit)
        return await _of_dialogue(auditor, dialogue_id, wanted, limit)

    found, more = read(work, tenant=tenant, dialogue_id=dialogue_id)
    rows = [msgspec.to_builtins(one) if as_json else _row(one) for one in found]
    table(rows, as_json=as_json)
    if more:
        click.echo(f"There are more than {limit}: --limit shows more.", err=True)


async def _feed(auditor: Auditor, wanted: Wanted, limit: int) -> tuple[list[AuditEvent], bool]:
    found: list[AuditEvent] = []
    place = None
    while True:
        page = await auditor.feed(wanted, place, min(PAGE, limit - len(found)))
        found += page.data
        place = page.next
        if place is None or len(found) >= limit:
            return found, place is not None


async def _of_dialogue(
    auditor: Auditor, dialogue_id: UUID, wanted: Wanted, limit: int
) -> tuple[list[AuditEvent], bool]:
    found: list[AuditEvent] = []
    after = 0
    while len(found) <= limit:
        page = await auditor.events(dialogue_id, after, PAGE)
        found += filter(_is(wanted), page.data)
        if page.next is None:
            break
        after = page.next
    return found[:limit], len(found) > limit


def _is(wanted: Wanted) -> Callable[[AuditEvent], bool]:
    def fits(one: AuditEvent) -> bool:
        at, actor = one.at or one.recorded_at, one.actor
        return (
            wanted.type in (None, one.type)
            and (
                wanted.user_id is None
                or (actor is not None and (actor.kind, actor.id) == ("user", wanted.user_id))
            )
            and (wanted.since is None or (at is not None and at >= wanted.since))
            and (wanted.until is None or (at is not None and at < wanted.until))
        )

    return fits


def _row(one: AuditEvent) -> dict[str, Any]:
    at = one.at or one.recorded_at
    return {
        "position": one.position,
        "at": at and at.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00"),
        "who": f"{one.actor.kind} {line(one.actor.id)}" if one.actor else "",
        "command": one.command_id,
        "type": one.type,
        "stream": one.stream_id,
        "version": one.version,
        "data": line(one.unreadable or "" if one.data is None else json_text(one.data), 80),
    }


@audit.command()
@click.argument("dialogue_id", metavar="ID", type=click.UUID)
@click.option(
    "--version", type=click.IntRange(1, 2**53 - 1), help="As it was after its event of this version."
)
@click.option("--at", type=Moment(), help="As it was at this time, as in 2026-11-22T12:00:00Z.")
@click.option(
    "--attempt", type=click.IntRange(1, 2**53 - 1), help="What the model was shown in this attempt."
)
@click.option("--message", type=click.UUID, help="Of this question; else of the newest one.")
@as_json
def show(
    *, dialogue_id: UUID, version: int | None, at: datetime | None, attempt: int | None, message: UUID | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show the dialogue ID as it is or as it was, whole; or with --attempt what the model was shown.

    The hash chain is checked on the way. An attempt's request is rebuilt from the log byte for byte; exit
    status 1 when its digest is not the one in the log.
    """
    if (version is not None) + (at is not None) + (attempt is not None) > 1:
        raise click.UsageError("Give one of --version, --at and --attempt.")
    if message and attempt is None:
        raise click.UsageError("--message goes with --attempt.")
    if attempt is None:
        _show_dialogue(dialogue_id, version, at, as_json)
    else:
        _show_attempt(dialogue_id, message, attempt, as_json)


def _show_dialogue(dialogue_id: UUID, version: int | None, at: datetime | None, as_json: bool) -> None:
    from bichat.api import answers

    found = read(lambda a: a.dialogue(dialogue_id, version=version, at=at), dialogue_id=dialogue_id)
    click.echo(json_text(answers.whole(found)) if as_json else dialogue_told(found))


def _show_attempt(dialogue_id: UUID, message: UUID | None, number: int, as_json: bool) -> None:
    from bichat.errors import NotFound

    async def work(auditor: Auditor) -> Any:
        asked = message
        if asked is None:
            turns = (await auditor.dialogue(dialogue_id)).turns.values()
            if not turns:
                raise NotFound(what="attempt")
            asked = max(turns, key=lambda turn: turn.seq).message_id
        return await auditor.attempt(dialogue_id, asked, number)

    one, sent = read(work, dialogue_id=dialogue_id)
    if as_json:
        click.echo(json_text({"attempt": one, "digest": sent.digest, "request": sent.request}))
    else:
        click.echo(attempt_told(one, sent))
    if sent.digest == "differs":
        raise SystemExit(1)


audit.add_command(play)
