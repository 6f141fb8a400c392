"""Exports of the log of `sealed`, and their lines to be forged."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import Any
from uuid import UUID

import msgspec
from anyio import CapacityLimiter
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from bichat.audit import offline
from bichat.audit.checking import Single
from bichat.audit.exported import Ending, Line, Manifest, encoded
from bichat.audit.log import TenantLog
from bichat.audit.offline import Proven
from bichat.audit.prover import Prover
from bichat.events.proof.seals import leaf
from bichat.events.seal import GENESIS, Place, chain
from bichat.projections.reads import Reads
from tests.audit.sealed import Log
from tests.examples import DIALOGUE, TENANT


class Export:
    """The lines of one, to be forged."""

    def __init__(self, data: bytes) -> None:
        first, *lines, last = data.splitlines()
        self.manifest = msgspec.json.decode(first, type=Manifest)
        self.lines = [msgspec.json.decode(line, type=Line) for line in lines]
        self.ending = msgspec.json.decode(last, type=Ending)

    def written(self) -> bytes:
        middle = b"".join(encoded(line) + b"\n" for line in self.lines)
        return encoded(self.manifest) + b"\n" + middle + encoded(self.ending) + b"\n"

    def event(self, number: int, **changed: Any) -> None:
        line = self.lines[number]
        self.lines[number] = replace(line, event=replace(line.event, **changed))

    def data(self, number: int, **changed: Any) -> None:
        self.event(number, data={**(self.lines[number].event.data or {}), **changed})

    def proof(self, number: int, **changed: Any) -> None:
        line = self.lines[number]
        self.lines[number] = replace(line, proof=replace(line.proof, **changed))

    def hash_anew(self) -> None:
        previous = GENESIS
        for number, line in enumerate(self.lines):
            one = line.event
            place = Place(self.manifest.tenant_id, self.manifest.dialogue_id, one.version, one.type)
            hash_ = chain(previous, place, one.command_id, line.proof.state)
            self.event(number, prev_hash=previous.hex(), hash=hash_.hex())
            previous = hash_

    def seal_anew(self, key: Ed25519PrivateKey) -> None:
        """As somebody would who has a key of their own."""
        self.hash_anew()
        manifest, head = self.manifest, bytes.fromhex(self.lines[-1].event.hash)
        root = leaf(manifest.tenant_id, manifest.dialogue_id, len(self.lines), head)
        public = key.public_key().public_bytes_raw()
        seal = replace(self.ending.seal, streams=1, root=root, public_key=public).signed_with(key)
        self.ending = Ending(seal=seal, path=replace(self.ending.path, index=0, hashes=[]))


def exported(log: Log, **given: Any) -> bytes:
    return asyncio.run(in_pieces(log, **given))[-1]


async def in_pieces(log: Log, tenant: UUID = TENANT) -> list[bytes]:
    """The export after each piece."""
    async with proving(log, tenant) as prover:
        return list(accumulate([some async for some in prover.export(DIALOGUE)]))


@asynccontextmanager
async def proving(log: Log, tenant: UUID = TENANT) -> AsyncIterator[Prover]:
    reads = Reads(log.url, size=1)
    await reads.open()
    try:
        yield Prover(log.url, log.ledger.keys, TenantLog(reads, tenant), CapacityLimiter(1))
    finally:
        await reads.close()


async def verified(log: Log, tenant: UUID = TENANT) -> Single | None:
    async with proving(log, tenant) as prover:
        return await prover.verify(DIALOGUE)


def trusted(log: Log) -> frozenset[bytes]:
    return log.signer.remembered().public_keys


def check(log: Log, data: bytes) -> Proven:
    return offline.check(io.BytesIO(data), trusted(log))
