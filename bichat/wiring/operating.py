"""What operators' verbs work with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bichat.config import Config
from bichat.events import schema
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.wiring import opened

if TYPE_CHECKING:
    from bichat.backup.merge import Merged
    from bichat.backup.restore import Restored
    from bichat.commands.execute import Executor
    from bichat.projections.processes import Database
    from bichat.projections.verify import Progress


def migrate(config: Config) -> list[str]:
    """Creates or updates the schema, the keys' schema and the read models' tables; returns what was new."""
    from bichat.projections import versions

    with schema.connect(opened.url(config)) as connection:
        schema.refuse_half_restored(connection)
    applied = schema.migrate(opened.url(config))
    applied += schema.migrate(opened.keys_url(config), schema.KEYS, name="KEYS_DATABASE_URL")
    with schema.connect(opened.url(config)) as connection:
        applied += [build.id for build in versions.ensure(connection)]
    with opened.keys(config):
        return applied


def database(config: Config) -> Database:
    """What operators' verbs work on, once it is sure that its schema and its master key are ours."""
    opened.check(config)
    with opened.keys(config):
        return opened.place(config)


@contextmanager
def key_store(database: Database) -> Iterator[KeyStore]:
    """Its keys, unlocked."""
    keys = database.key_store()
    try:
        keys.unlock()
        yield keys
    finally:
        keys.close()


@contextmanager
def writer(database: Database) -> Iterator[Executor]:
    """Executes operators' commands; followers see what it wrote at their next look."""
    from bichat.commands.execute import Executor

    with key_store(database) as keys, ExitStack() as stack:
        ledger = Ledger(database.url, keys)
        stack.callback(ledger.close)
        executor = Executor(ledger)
        executor.start()
        stack.callback(executor.close)
        yield executor


def missing(config: Config) -> str:
    """The names of the read models of which the database does not have this code's shape."""
    from bichat.projections import versions

    with schema.connect(opened.url(config)) as connection:
        return " ".join(model.name for model in versions.missing(connection))


def fill(config: Config, progress: Progress) -> None:
    """Builds the read models that this code has in a shape which the database has not."""
    from bichat.projections import rebuild, versions
    from bichat.projections.processes import cores

    with schema.connect(opened.url(config)) as connection:
        missing = versions.missing(connection)
    if missing:
        rebuild.rebuild(database(config), missing, jobs=cores(), progress=progress)


def restore(config: Config, directory: Path, progress: Progress) -> Restored:
    """Brings the log back from a backup; the database need not be anything yet."""
    from bichat.backup import restore as work

    return work.restore(opened.place(config), directory, progress)


def restore_keys(config: Config, file: Path) -> Merged:
    """Brings keys back from their file; the stores need not be anything yet."""
    from bichat.backup import merge

    return merge.restore(opened.place(config), file)
