"""What an erasure does not reach through the log: dialogues it could not tell, builds that nobody follows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

from bichat.errors import Unavailable
from bichat.events.keys import data_keys, register
from bichat.events.keys.store import KeyStore
from bichat.projections import erasures, versions
from bichat.projections.read_model import Build

log = logging.getLogger(__name__)


class Unreached:
    """Looks at the register of erasures, and sees to it that text goes there, too."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._blank: set[tuple[str, UUID]] = set()
        """Builds and dialogues that are blank, once and for all: they are parked."""
        self._seen: datetime | None = None
        self._looked: tuple[int, set[str]] | None = None
        """After how many changes to keys, and at which builds: while these stay, so does the register."""

    def look(self, connection: Connection[Any], builds: Iterable[Build]) -> None:
        """Called often; the register is away at times, and asked the next time."""
        builds = list(builds)
        with suppress(Unavailable):
            with self._keys.connection() as store:
                now = data_keys.changes(store), {build.id for build in builds}
            if now == self._looked:
                return
            newest, untold = register.unreached(self._keys)
            for build in builds:
                self._blank_parked(connection, build, untold)
            if newest and newest != self._seen:
                for name in versions.drop_abandoned(connection, newest):
                    log.warning("%s was dropped: text was erased, and nobody follows it", name)
            self._seen, self._looked = newest, now

    def _blank_parked(self, connection: Connection[Any], build: Build, untold: list[UUID]) -> None:
        """Their events cannot be read, so every follower has parked them, or will see no text in them."""
        new = [i for i in untold if (build.id, i) not in self._blank]
        erasures.blank(connection, build, dict.fromkeys(new, erasures.UNTOLD))
        self._blank.update((build.id, i) for i in new)
