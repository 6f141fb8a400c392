"""Proving one dialogue to an auditor of its tenant, in the tenant's view; for callers in threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import Connection

from bichat.audit.checking import Single, single
from bichat.audit.export import bind, expect_dialogue, export
from bichat.errors import ReadsUnavailable
from bichat.errors.unusable import DatabaseUnreachable
from bichat.events import schema
from bichat.events.keys.store import KeyStore
from bichat.events.proof import sealing
from bichat.events.proof.signing import Signer


class Prover(Struct, frozen=True):
    """Raises `NotFound` for what is another tenant's, no dialogue, or nothing; and `Unavailable` kinds."""

    url: str
    keys: KeyStore
    tenant_id: UUID
    signing_key: bytes | None = None

    def verify(self, dialogue_id: UUID, trusted: frozenset[bytes] | None = None) -> Single | None:
        """Checks its chain and its seals; `trusted`: whose signatures count, else of those known here."""
        remembered = Signer(self.keys).remembered()
        with self._connection() as connection:
            bind(connection, self.tenant_id)
            expect_dialogue(connection, dialogue_id)
            return single(connection, remembered, dialogue_id, trusted)

    def export(self, dialogue_id: UUID) -> Generator[bytes, None, None]:
        """Its export, a few lines at a time; what is not sealed yet is sealed first, so that it is in it."""
        with self._connection() as connection:
            for _ in sealing.seal_all(connection, Signer(self.keys, self.signing_key)):
                pass
            bind(connection, self.tenant_id)
            with closing(export(connection, self.keys, dialogue_id)) as lines:
                yield from lines

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        try:
            with schema.connect(self.url) as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, DatabaseUnreachable) as error:
            raise ReadsUnavailable(reason=type(error).__name__) from error
