"""R5: what a projector cannot digest: its dialogue waits, all others go on, and after a fix it catches up."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import sql

from bench.stack import Stack, stack
from bichat.events import schema
from bichat.events.dialogue import MessageAdded, ReplyFailed
from bichat.projections import versions
from bichat.projections.read_model import Build
from chaos.asking import Asked, ask, ask_more, client, end, facts, log, told_by_stream
from chaos.provider import KEY, provider
from chaos.verdict import Verdict
from chaos.world import World
from tests.poison import damaged

DONE = "an event that a projector cannot digest, in each read model; then the fix"

TEXT = "Why do Xylophons sell so well?"
PATIENCE = 20.0
BROKEN = "damaged"
"""Whose event cannot be read at all, by any build."""


class Poisoned(Struct, frozen=True):
    """A dialogue that some builds cannot digest."""

    user: str
    asked: Asked
    builds: list[Build]


def run(world: World, verdict: Verdict) -> None:
    with ExitStack() as opened:
        model = opened.enter_context(provider())
        bichat = opened.enter_context(
            stack(world.database(), world.redis_url, model.url, world.scratch / "logs", OPENAI_API_KEY=KEY)
        )
        bichat.up()
        with schema.connect(bichat.database_url) as connection:
            followed = versions.followed(connection)
        builds = [build for build in followed if build.model.subject == "dialogue"]
        everyone = [poison(bichat, build) for build in builds]
        with unreadable(bichat, builds) as (one, repair):
            everyone.append(one)
            wait(world, bichat, everyone, verdict)
            meanwhile(world, bichat, verdict)
            for poisoned in everyone:
                suffer(bichat, poisoned, verdict)
            still = bichat.verb("projections", "retry", builds[0].model.name)
            verdict.check(still.returncode == 1, f"a retry before the fix said {still.stdout}{still.stderr}")
            wait(world, bichat, everyone, verdict)
            repair()
        cure(bichat, builds)
        recover(bichat, everyone, builds, verdict)


# --- the poison ------------------------------------------------------------------------------------


def victim(build: Build) -> str:
    return f"poisoned-{build.model.name}"


def poison(bichat: Stack, build: Build) -> Poisoned:
    """A build whose tables refuse one person, and that person."""
    add = "alter table {table} add constraint poison check (user_id <> {user}) not valid"
    change(bichat, build, sql.SQL(add), user=sql.Literal(victim(build)))
    with client(bichat, victim(build)) as person:
        return Poisoned(victim(build), ask(person, TEXT), [build])


def cure(bichat: Stack, builds: list[Build]) -> None:
    """What an operator does who has found out."""
    for build in builds:
        change(bichat, build, sql.SQL("alter table {table} drop constraint poison"))


def change(bichat: Stack, build: Build, statement: sql.SQL, **values: sql.Literal) -> None:
    """Every table of the build that knows whose a dialogue is."""
    with psycopg.connect(bichat.database_url, autocommit=True) as connection:
        for table in build.tables:
            names = sql.Identifier(*table.split("."))
            query = "select from information_schema.columns where table_name = %s and column_name = 'user_id'"
            if connection.execute(query, (table.rpartition(".")[2],)).fetchone() is not None:
                connection.execute(statement.format(table=names, **values))


class unreadable:  # noqa: N801 - a context
    """An event that a bad disk has changed before any projector saw it; gives its dialogue and the repair."""

    def __init__(self, bichat: Stack, builds: list[Build]) -> None:
        self._bichat, self._builds, self._held = bichat, builds, ExitStack()

    def __enter__(self) -> tuple[Poisoned, Any]:
        projector = self._bichat.processes["projector"]
        projector.send_signal(signal.SIGSTOP)
        with client(self._bichat, BROKEN) as person:
            asked = ask(person, TEXT)
        url, place = self._bichat.database_url, (asked.dialogue_id, 2)
        repair = self._held.enter_context(damaged(url, place))
        projector.send_signal(signal.SIGCONT)
        return Poisoned(BROKEN, asked, self._builds), repair

    def __exit__(self, *error: object) -> None:
        self._held.close()


# --- while it waits --------------------------------------------------------------------------------


def wait(world: World, bichat: Stack, everyone: list[Poisoned], verdict: Verdict) -> None:
    """Those builds have parked those dialogues, with the error, and no others."""
    due = {(build.id, str(one.asked.dialogue_id)) for one in everyone for build in one.builds}
    deadline = time.monotonic() + PATIENCE
    while (found := parked(bichat)).keys() != due and time.monotonic() < deadline:
        time.sleep(0.3)
    world.history.tell("operator", "parked", found=found)
    verdict.check(found.keys() == due, f"parked are {sorted(found)}, not {sorted(due)}")
    for place, one in found.items():
        told = one["error"] and "Xylophon" not in json.dumps(one)
        verdict.check(bool(told), f"{place} waits because of {one['error']!r}")
    verdict.counts["parked"] = len(found)


def parked(bichat: Stack) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(bichat.verb("projections", "parked", "--json").stdout)
    return {(row["build"], row["dialogue_id"]): row for row in rows}


def meanwhile(world: World, bichat: Stack, verdict: Verdict) -> None:
    """Nobody else notices."""

    def other(number: int) -> str:
        with client(bichat, f"other-{number}") as person:
            asked = ask(person, TEXT)
            return f"{end(person, asked)['status']}, {end(person, ask_more(person, asked, 'And?'))['status']}"

    with ThreadPoolExecutor(8) as people:
        for status in people.map(other, range(6 if world.short else 60)):
            verdict.check(status == "answered, answered", f"another's questions are {status}")
            verdict.counts["others' questions"] += 2


def suffer(bichat: Stack, poisoned: Poisoned, verdict: Verdict) -> None:
    """What its person is told meanwhile; and what they do meanwhile is not lost."""
    names = {build.model.name for build in poisoned.builds}
    with client(bichat, poisoned.user) as person:
        path = f"/v1/dialogues/{poisoned.asked.dialogue_id}"
        if "transcripts" in names:
            told = person.get(f"{path}?min_version=2")
            verdict.check(
                told.status_code == 503 and "retry-after" in told.headers, f"{poisoned.user}: {told.text}"
            )
        elif "replies" in names:
            status = end(person, poisoned.asked)["status"]
            verdict.check(status == "failed", f"what cannot be queued is {status}")
            shown = told_by_stream(person, poisoned.asked) if status == "failed" else "nothing yet"
            verdict.check('"code":"parked"' in shown, f"the stream of what cannot be queued tells {shown}")
        else:
            status = end(person, poisoned.asked)["status"]
            verdict.check(status == "answered", f"the question of {poisoned.user} is {status}")
        if poisoned.user != BROKEN:
            renamed = person.patch(path, json={"label": "What of it?"})
            verdict.check(renamed.status_code == 200, f"{poisoned.user} could not rename: {renamed.text}")
            ask_more(person, poisoned.asked, "And now?")


# --- after the fix ---------------------------------------------------------------------------------


def recover(bichat: Stack, everyone: list[Poisoned], builds: list[Build], verdict: Verdict) -> None:
    """All is applied in order: the read models are what the log comes to, and the failed are asked again."""
    for build in builds:
        retried = bichat.verb("projections", "retry", build.model.name)
        goes_on = sum(build in one.builds for one in everyone)
        verdict.check(retried.returncode == 0, f"{build.id}: {retried.stdout}{retried.stderr}")
        verdict.check(retried.stdout.count("goes on") == goes_on, f"{build.id}: {retried.stdout}")
    verdict.check(not parked(bichat), f"after the fix {parked(bichat)} waits")
    with log(bichat.database_url) as ledger:
        for one in everyone:
            with client(bichat, one.user) as person:
                failed = [f for f in facts(ledger, one.asked) if isinstance(f, ReplyFailed) and f.final]
                if "replies" in {build.model.name for build in one.builds} and failed:
                    verdict.check([f.code for f in failed] == ["parked"], f"{one.user} failed with {failed}")
                    path = f"/v1/dialogues/{one.asked.dialogue_id}/messages/{one.asked.message_id}/retry"
                    person.post(path).raise_for_status()
                    again(person, one.asked)
                question = end(person, one.asked)
                verdict.check(question["status"] == "answered", f"after the fix {one.user} is {question}")
            answers = [f for f in facts(ledger, one.asked) if isinstance(f, MessageAdded) and f.answers]
            verdict.check(len(answers) == 1, f"{one.user} has {len(answers)} answers")
    proven = bichat.verb("projections", "verify")
    verdict.check(proven.returncode == 0, f"{proven.stdout}{proven.stderr}")


def again(person: Any, asked: Asked) -> None:
    """Returns once the question is no longer shown as failed."""
    deadline = time.monotonic() + PATIENCE
    while end(person, asked, 0)["status"] == "failed" and time.monotonic() < deadline:
        time.sleep(0.1)
