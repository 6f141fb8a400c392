"""What P3 is measured beside too: the library's own runner, which commits each event by itself."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import Environment
from psycopg.sql import SQL, Identifier

TEXT = "Which region sold most of the new line in the second quarter, and by how much? " * 5
DIALOGUES = 20


class Dialogue(Aggregate):
    """An aggregate as the library's guide has them."""

    @event("Said")
    def say(self, text: str) -> None:
        """Adds a message."""


class Dialogues(Application[UUID]):
    """The log of the library: neither sealed nor chained."""


class Messages(PostgresTrackingRecorder):
    """One read model of one table, a row for each message."""

    def __init__(self, datastore: PostgresDatastore, **more: Any) -> None:
        super().__init__(datastore, **more)
        table = Identifier(datastore.schema, f"{self.tracking_table_name}_rows")
        made = "create table if not exists {} (dialogue uuid, version bigint, said text,"
        self.sql_create_statements.append(SQL(made + " primary key (dialogue, version))").format(table))
        self._insert = SQL("insert into {} values (%s, %s, %s)").format(table)

    def add(self, dialogue: UUID, version: int, said: str, tracking: Tracking) -> None:
        """A row, in one transaction with how far the log was read."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(self._insert, (dialogue, version, said), prepare=True)


class Transcript(Projection[Messages]):
    """What the library folds with."""

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Nothing of other events."""

    @process_event.register
    def _(self, domain_event: Dialogue.Said, tracking: Tracking) -> None:  # type: ignore[name-defined]
        self.view.add(
            domain_event.originator_id, domain_event.originator_version, domain_event.text, tracking
        )


def library(url: str, events: int, models: int) -> tuple[float, float]:
    """Events per second that its runners fold, of so many: into one simple read model, and into so many of
    them, each by a runner in a process of its own.
    """
    where = urlsplit(url)
    host = parse_qs(where.query).get("host", [where.hostname or ""])[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema library")
    env = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_DBNAME": where.path[1:],
        "POSTGRES_HOST": host, "POSTGRES_PORT": str(where.port or ""), "POSTGRES_SCHEMA": "library",
        "POSTGRES_USER": where.username or "", "POSTGRES_PASSWORD": where.password or "",
    }  # fmt: skip
    with Dialogues(env) as app:
        last = 0
        for _ in range(DIALOGUES):
            dialogue = Dialogue()
            for _ in range(events // DIALOGUES):
                dialogue.say(TEXT)
            last = app.save(dialogue)[-1].notification.id
    for number in range(models + 1):  # one after the other: it replaces functions that all of them use
        named = Environment(f"transcript{number}", env)
        with InfrastructureFactory.construct(named) as factory:
            factory.tracking_recorder(Messages)
    env["CREATE_TABLE"] = "no"
    with multiprocessing.get_context("spawn").Pool(models) as pool:
        pool.map(_ready, range(models), chunksize=1)
        rates = []
        for numbers in ([0], range(1, models + 1)):
            started = time.monotonic()
            ended = max(pool.starmap(follow, [(env, number, last) for number in numbers], chunksize=1))
            rates.append(events / (ended - started))
        return rates[0], rates[1]


def _ready(_: int) -> None:
    """A process that has done this has started and imported everything."""
    time.sleep(0.5)


def follow(env: dict[str, str], number: int, last: int) -> float:
    """One of its runners; when it had seen the event at position `last`, by the machine's monotonic clock."""
    named = type(f"Transcript{number}", (Transcript,), {"name": f"transcript{number}"})
    kinds: Any = {"application_class": Dialogues, "projection_class": named, "view_class": Messages}
    with ProjectionRunner(**kinds, env=env) as runner:
        runner.wait(last, timeout=120)
        return time.monotonic()
