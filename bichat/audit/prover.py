"""Proving one dialogue to an auditor of its tenant, in the tenant's view."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
from anyio import CapacityLimiter, to_thread
from msgspec import Struct
from psycopg import Connection

from bichat.audit.checking import Single, bind, swift
from bichat.audit.export import expect_dialogue, export
from bichat.audit.log import TenantLog
from bichat.errors import ReadsUnavailable
from bichat.errors.unusable import DatabaseUnreachable
from bichat.events import schema
from bichat.events.keys.store import KeyStore
from bichat.events.proof import sealing
from bichat.events.proof.signing import Signer
from bichat.projections.sql import statement


class Prover(Struct, frozen=True):
    """Raises `NotFound` for what is another tenant's, no dialogue, or nothing; and `Unavailable` kinds.

    `limiter`: how many threads may check, seal or open text at once, each with a connection at most.
    """

    url: str
    keys: KeyStore
    log: TenantLog
    limiter: CapacityLimiter
    signing_key: bytes | None = None

    async def verify(self, dialogue_id: UUID) -> Single | None:
        """Checks its chain and the seals over it, and the newest seals by their hashes."""
        return await to_thread.run_sync(self._verify, dialogue_id, limiter=self.limiter)

    async def export(self, dialogue_id: UUID) -> AsyncGenerator[bytes, None]:
        """Its export, some lines at a time; what is not sealed yet is sealed first, so that it is in it."""
        await to_thread.run_sync(self._seal, limiter=self.limiter)
        async with aclosing(export(self.log, self.keys, dialogue_id, self.limiter)) as lines:
            async for some in lines:
                yield some

    def _verify(self, dialogue_id: UUID) -> Single | None:
        remembered = Signer(self.keys).remembered()
        with self._connection() as connection:
            bind(connection, self.log.tenant_id)
            tenant = statement("export", "tenant", "bichat.audit")
            expect_dialogue(connection.execute(tenant, {"stream": dialogue_id}).fetchall())
            return swift(connection, remembered, dialogue_id)

    def _seal(self) -> None:
        with self._connection() as connection:
            for _ in sealing.seal_all(connection, Signer(self.keys, self.signing_key)):
                pass

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        try:
            with schema.connect(self.url) as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, DatabaseUnreachable) as error:
            raise ReadsUnavailable(reason=type(error).__name__) from error
