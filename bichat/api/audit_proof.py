"""Proof for auditors: whether a dialogue is as it was written, and an export that proves itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Annotated
from uuid import UUID

from anyio import CancelScope, CapacityLimiter, to_thread
from litestar import Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import UNSET, Meta, Struct, UnsetType

from bichat.api.audit import AUDITOR, auditor
from bichat.api.call import Call
from bichat.api.problems import PRIVATE
from bichat.api.schemas import Time
from bichat.audit.checking import Single
from bichat.audit.prover import Prover
from bichat.errors import NotFound
from bichat.events.proof import seals
from bichat.events.proof.signing import written

NDJSON = "application/x-ndjson"
_AT_ONCE = CapacityLimiter(4)
"""Each takes a connection of its own, and a core while it works."""

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ProvingSeal(Struct, frozen=True, kw_only=True):
    """A signed root over the heads of dialogues; `public_key` as `bichat keys public` prints it."""

    number: int
    at: Time
    root: Hash
    public_key: str


class Proof(Struct, frozen=True, kw_only=True):
    """Whether a dialogue is as it was written.

    Up to `sealed_version` it is proven by seals, the newest of which is `seal`; what comes after is only
    chained, until the next one. `reason` says what is wrong: with the dialogue, from `first_bad_version`
    on, or else with the seals.
    """

    valid: bool
    events: int
    head_hash: Hash
    first_bad_version: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    sealed_version: int
    seal: ProvingSeal | None


@get("/dialogues/{dialogue_id:str}/verify", opt=AUDITOR)
async def verify(request: Call, dialogue_id: FromPath[UUID]) -> Proof:
    """Checks the hash chain of a dialogue, event by event, and the seals over it."""
    await auditor(request).record("verify", dialogue_id)
    found = await to_thread.run_sync(_prover(request).verify, dialogue_id, limiter=_AT_ONCE)
    if found is None:
        raise NotFound(what="dialogue")
    return _told(found)


@get(
    "/dialogues/{dialogue_id:str}/export", opt=AUDITOR, media_type=NDJSON,
    responses={200: ResponseSpec(
        data_container=str, media_type=NDJSON, generate_examples=False,
        description="A manifest, one event a line with its proof, last the seal: checked offline by"
        " `bichat audit verify --file`.",
    )},
)  # fmt: skip
async def export(request: Call, dialogue_id: FromPath[UUID]) -> Stream:
    """The whole dialogue in a form that proves itself, sealed as of now."""
    await auditor(request).record("export", dialogue_id)
    lines = _prover(request).export(dialogue_id)
    first = await to_thread.run_sync(next, lines, limiter=_AT_ONCE)
    name = f'attachment; filename="{dialogue_id}.ndjson"'
    headers = {**PRIVATE, "Content-Disposition": name}
    return Stream(_streamed(first, lines), media_type=NDJSON, headers=headers)


async def _streamed(first: bytes, lines: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    try:
        yield first
        while some := await to_thread.run_sync(next, lines, b"", limiter=_AT_ONCE):
            yield some
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(lines.close)


def _prover(call: Call) -> Prover:
    config, keys = call.parts.config, call.parts.executor.ledger.keys
    return Prover(config.database_url or "", keys, call.user.tenant_id, config.bichat_signing_key)


def _told(found: Single) -> Proof:
    wrong = found.findings[0] if found.findings else None
    about_seal = wrong is not None and wrong.version is None
    return Proof(
        valid=wrong is None,
        events=found.events,
        head_hash=found.head.hex(),
        first_bad_version=UNSET if wrong is None or wrong.version is None else wrong.version,
        reason=UNSET if wrong is None else str(wrong) if about_seal else f"{wrong.what}: {wrong.reason}",
        sealed_version=found.sealed,
        seal=_seal(found.seal) if found.seal else None,
    )


def _seal(seal: seals.Seal) -> ProvingSeal:
    root, key = seal.root.hex(), written(seal.public_key)
    return ProvingSeal(number=seal.number, at=seal.at, root=root, public_key=key)


router = Router("/audit", route_handlers=[verify, export], tags=["audit"])
