"""The database that operators' verbs work on: DATABASE_URL's, or that of the local `bichat serve`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bichat import config, embedded
from bichat.errors.unusable import DatabaseLost, Interrupted, NothingHere
from bichat.logs import described

if TYPE_CHECKING:
    from psycopg import Connection

    from bichat.projections.processes import Database


@contextmanager
def opened(*also: str) -> Iterator[Database]:
    """Where it is and what opens it; raises when its schema or its master key is not ours.

    `also`: other servers that are needed, if we bring them along.
    """
    from bichat import wiring

    given = config.load()
    if given.brings_postgres and not (given.bichat_data_dir / "postgres").exists():
        raise NothingHere(path=given.bichat_data_dir)  # a typing error must not make a new one
    needed = ("database_url", *also) if given.brings_postgres else ("database_url",)
    with embedded.attached_or_owned(given, *needed) as settings:
        yield wiring.database(settings)


@contextmanager
def connected(database: Database) -> Iterator[Connection[Any]]:
    """A connection in autocommit mode with the owner's rights; raises `DatabaseLost` when it breaks."""
    from bichat.events import schema

    with schema.connect(database.url) as connection, watched():
        connection.prepare_threshold = None  # tables are made in blocks of several statements
        yield connection


@contextmanager
def watched() -> Iterator[None]:
    """Says in one line what a database could not do; raises `DatabaseLost`."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise DatabaseLost(reason=described(error).rstrip(".")) from error


@contextmanager
def interruptible(work: str, then: str) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end long work in one line; raises `Interrupted`."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(work=work, then=then) from None
    finally:
        signal.signal(signal.SIGTERM, before)
