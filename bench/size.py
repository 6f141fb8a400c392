"""P11: what a message takes on disk: the log, receipts, snapshots, read models and all indexes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import psycopg
from msgspec import Struct

from bench import history
from bench.line import Line
from bench.place import MASTER_KEY, Place
from bichat.events import schema
from bichat.projections import following, transcripts, versions
from bichat.projections.processes import Database, desk
from bichat.projections.read_model import Build

EVENTS = (15_000, 30_000)
"""Each as many more; what the second ones add is what a message takes in the long run."""
_BUILD = re.compile(r"_v\d+_g\d+")
_TABLES = """
select c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema')
"""
_SAID = """
select count(*), sum(octet_length(m->>'content'))
from {pages}, jsonb_array_elements(messages) m where m->>'role' <> 'tool'
"""


class Sizes(Struct, frozen=True):
    """Bytes of tables and of their indexes by name, beside the messages in them."""

    messages: int
    said: int
    tables: Counter[str]
    indexes: Counter[str]

    @property
    def total(self) -> int:
        """All of it."""
        return self.tables.total() + self.indexes.total()

    def since(self, before: Sizes) -> Sizes:
        """What has been added."""
        return Sizes(
            self.messages - before.messages, self.said - before.said, self.tables - before.tables,
            self.indexes - before.indexes,
        )  # fmt: skip

    def told(self) -> list[str]:
        """A note for each table of which a message takes more than a byte, the largest first."""
        both = self.tables + self.indexes
        return [
            f"{name}: {size / self.messages:,.0f} bytes per message,"
            f" of them {self.indexes[name] / self.messages:,.0f} of indexes"
            for name, size in both.most_common()
            if size > self.messages
        ]


def sizes(connection: psycopg.Connection[Any]) -> Sizes:
    """As they are now."""
    pages = transcripts.MODEL.views[1]
    row = connection.execute(_SAID.format(pages=pages).encode()).fetchone()
    assert row
    tables, indexes = Counter[str](), Counter[str]()
    for name, table, index in connection.execute(_TABLES):
        tables[_BUILD.sub("", name)] += table
        indexes[_BUILD.sub("", name)] += index
    return Sizes(int(row[0]), int(row[1]), tables, indexes)


def grown(connection: psycopg.Connection[Any], url: str, events: int) -> Sizes:
    """The sizes after so many more events, folded into the read models as a projector does."""
    history.made(url, events)
    database = Database(url=url, keys_url=url, master_key=MASTER_KEY)
    found = ((model, versions.serving(connection, model)) for model in versions.MODELS)
    builds: list[Build] = [build for _, build in found if build]
    with desk(database) as here, following.Followers(database, here, builds):
        following.catch_up(connection, builds, lambda *_: None)
    connection.execute("vacuum")
    return sizes(connection)


def measure(place: Place) -> Line:
    """Two lots of events, and what the second one added."""
    found: list[Sizes] = []
    with place.database() as url, schema.connect(url) as connection:
        for events in EVENTS:
            found.append(grown(connection, url, events))
            place.say(f"{found[-1].messages:,} messages in {found[-1].total / 1e6:.0f} MB")
    few, many = found
    more = many.since(few)
    ours, theirs = more.total / more.messages, more.said / more.messages
    return Line(
        id="P11", work="bytes on disk per message: log, read models, indexes", unit="bytes",
        ours=ours, yardstick=theirs, ratio=ours / theirs, target="reported", met=True,
        notes=[
            f"per message {few.total / few.messages:,.0f} at {few.messages:,},"
            f" {many.total / many.messages:,.0f} at {many.messages:,}; each one more takes {ours:,.0f},"
            f" of {theirs:,.0f} that are its own",
            *more.told(),
        ],
    )  # fmt: skip
