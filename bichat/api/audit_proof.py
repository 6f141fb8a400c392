"""Proof for auditors: whether a dialogue is as it was written, and an export that proves itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from anyio import CapacityLimiter
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
from bichat.audit.log import TenantLog
from bichat.audit.prover import Prover
from bichat.errors import NotFound
from bichat.events.proof import seals
from bichat.events.proof.signing import written

NDJSON = "application/x-ndjson"

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
    checked: int
    """The seal from which on the chain of seals was followed, by hash, to the newest one; of those
    before, the ones over the dialogue. Whether leaves of later ones were touched: `bichat audit verify`."""


@get("/dialogues/{dialogue_id:str}/verify", opt=AUDITOR)
async def verify(request: Call, dialogue_id: FromPath[UUID]) -> Proof:
    """Checks the hash chain of a dialogue, event by event, and the seals over it."""
    await auditor(request).record("verify", dialogue_id)
    found = await _prover(request, request.parts.checks).verify(dialogue_id)
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
    lines = _prover(request, request.parts.exports).export(dialogue_id)
    first = await anext(lines)
    name = f'attachment; filename="{dialogue_id}.ndjson"'
    headers = {**PRIVATE, "Content-Disposition": name}
    return Stream(_streamed(first, lines), media_type=NDJSON, headers=headers)


async def _streamed(first: bytes, lines: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(lines):
        yield first
        async for some in lines:
            yield some


def _prover(call: Call, limiter: CapacityLimiter) -> Prover:
    config, keys = call.parts.config, call.parts.executor.ledger.keys
    log = TenantLog(call.parts.reads, call.user.tenant_id)
    return Prover(config.database_url or "", keys, log, limiter, config.bichat_signing_key)


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
        checked=found.checked,
    )


def _seal(seal: seals.Seal) -> ProvingSeal:
    root, key = seal.root.hex(), written(seal.public_key)
    return ProvingSeal(number=seal.number, at=seal.at, root=root, public_key=key)


router = Router("/audit", route_handlers=[verify, export], tags=["audit"])
