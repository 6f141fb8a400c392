"""`bichat audit verify` and `export`: whether anybody has touched the log, and proof for those elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import UUID

import click

from bichat.cli import auditing, database
from bichat.cli.audit import audit
from bichat.cli.keys import keys
from bichat.cli.output import Progress, as_json, table
from bichat.terminal import line

if TYPE_CHECKING:
    from bichat.audit.checking import Single, Verdict
    from bichat.audit.offline import Proven
    from bichat.events.audit import Reading
    from bichat.events.proof.seals import Seal
    from bichat.projections.processes import Database, Desk


@audit.command()
@click.argument("stream_id", metavar="[ID]", type=click.UUID, required=False)
@click.option("--tenant", "tenant_id", type=click.UUID, help="Only what is this tenant's.")
@click.option("--file", type=click.File("rb"), help="An export, checked on its own; needs --key.")
@click.option(
    "--key",
    "trust",
    multiple=True,
    help="A public key whose seals are trusted: base64, PEM or a file. Else those known to the keys store.",
)
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes, else one per core.")
@as_json
def verify(
    *, stream_id: UUID | None, tenant_id: UUID | None, file: BinaryIO | None, trust: tuple[str, ...],
    jobs: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Check that nobody has changed, removed, put in or moved an event: one dialogue's, or all.

    Exit status 1 if somebody has; it says which event is the first bad one, and what is wrong. What is not
    sealed yet is only chained: whoever can write to the database can chain it anew. Positions, and when
    an event was recorded, are proven by nothing.
    """
    from bichat.events.proof.signing import public_key

    trusted = frozenset(public_key(text) for text in trust) or None
    if file:
        if stream_id or tenant_id or trusted is None:
            raise click.UsageError("--file needs --key, and neither ID nor --tenant")
        _show_proven(_offline(file, trusted), as_json=as_json)
        return
    with database.opened() as db, database.watched():
        if stream_id:
            valid = _verify_one(db, stream_id, tenant_id, trusted, as_json=as_json)
        else:
            valid = _verify_all(db, tenant_id, trusted, jobs, as_json=as_json)
    sys.exit(0 if valid else 1)


@audit.command()
@click.argument("dialogue_id", metavar="ID", type=click.UUID)
@click.option("--tenant", "tenant_id", type=click.UUID, help="Only if it is this tenant's.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="A new file; else standard output.")
def export(dialogue_id: UUID, tenant_id: UUID | None, output: str | None) -> None:
    """Write a dialogue so that it proves itself: `bichat audit verify --file FILE --key PUBLIC_KEY`."""
    from bichat.projections.processes import desk

    stopped = database.interruptible("export", "nothing of it is kept, but that it was asked for")
    with database.opened() as db, database.watched(), stopped, desk(db) as here:
        tenant = _recorded(db, "export", dialogue_id, tenant_id)
        with _target(output) as target:
            asyncio.run(_export(db, here, tenant, dialogue_id, target))


@keys.command()
def public() -> None:
    """Print the public key that checks the seals of this log: what `bichat audit verify --key` takes."""
    from bichat.events.proof.signing import Signer, written
    from bichat.projections.processes import desk

    with database.opened() as db, database.watched(), desk(db) as here:
        public_key = Signer(here.keys, db.signing_key).public()
    click.echo(written(public_key))


# --- what they do ---------------------------------------------------------------------------------


def _verify_one(
    db: Database, stream_id: UUID, tenant_id: UUID | None, trusted: frozenset[bytes] | None, *, as_json: bool
) -> bool:
    from bichat.audit.checking import single
    from bichat.errors import NotFound
    from bichat.events.proof.signing import Signer
    from bichat.projections.processes import desk

    _recorded(db, "verify", stream_id, tenant_id)
    with desk(db) as here:
        found = single(here.connection, Signer(here.keys).remembered(), stream_id, trusted)
    if found is None:
        raise NotFound(what="stream")
    _show_one(found, as_json=as_json)
    return not found.findings


def _verify_all(
    db: Database, tenant_id: UUID | None, trusted: frozenset[bytes] | None, jobs: int | None, *, as_json: bool
) -> bool:
    from bichat.audit import checking
    from bichat.audit.log import INSTALLATION
    from bichat.projections.processes import Pool, cores

    _record(db, "verify", tenant_id or INSTALLATION)
    pool = Pool(db, jobs or cores())
    try:
        with database.interruptible("check", "nothing of it is kept"), Progress() as progress:
            found = checking.verify(db, pool, progress, tenant_id=tenant_id, trusted=trusted)
    finally:
        pool.close()
    _show_all(found, as_json=as_json)
    return found.valid


async def _export(db: Database, here: Desk, tenant: UUID, dialogue_id: UUID, target: BinaryIO) -> None:
    from anyio import CapacityLimiter

    from bichat.audit.log import TenantLog
    from bichat.audit.prover import Prover

    async with auditing.pooled(db) as reads:
        log = TenantLog(reads, tenant)
        prover = Prover(db.url, here.keys, log, CapacityLimiter(1), db.signing_key)
        async for some in prover.export(dialogue_id):
            target.write(some)


def _offline(file: BinaryIO, trusted: frozenset[bytes]) -> Proven:
    from bichat.audit import offline

    return offline.check(file, trusted)


def _recorded(db: Database, what: Reading, stream_id: UUID, tenant_id: UUID | None) -> UUID:
    """Records the reading of a stream, and returns whose it is; raises `NotFound`."""
    from bichat.audit.log import tenant_of
    from bichat.errors import NotFound

    with database.connected(db) as connection:
        found = tenant_of(connection, stream_id)
    if tenant_id not in (None, found):
        raise NotFound(what="stream")
    _record(db, what, found, stream_id)
    return found


def _record(db: Database, what: Reading, tenant_id: UUID, stream_id: UUID | None = None) -> None:
    from uuid_utils.compat import uuid7

    from bichat import wiring
    from bichat.commands.audit import RecordReading
    from bichat.events.envelope import Actor, Metadata

    command = RecordReading(tenant_id=tenant_id, what=what, dialogue_id=stream_id)
    by = Metadata(tenant_id=tenant_id, actor=Actor("system", "operator"), command_id=uuid7())
    with wiring.writer(db) as executor:
        asyncio.run(executor.execute(command, by))


@contextmanager
def _target(output: str | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    if os.path.lexists(output):
        raise click.BadParameter(f"{output} is there already", param_hint="-o")
    place, name = os.path.split(output)
    try:
        unfinished = NamedTemporaryFile(dir=place or ".", prefix=f".{name}.", delete=False)  # noqa: SIM115
    except OSError as error:
        raise click.BadParameter(f"{output}: {error.strerror}", param_hint="-o") from None
    try:
        with unfinished:
            yield cast(BinaryIO, unfinished)
        os.rename(unfinished.name, output)
    except BaseException:
        os.unlink(unfinished.name)
        raise


# --- what they say --------------------------------------------------------------------------------


def _show_one(found: Single, *, as_json: bool) -> None:
    unsealed = max(0, found.events - found.sealed)
    if as_json:
        table([_plain(found) | {"valid": not found.findings, "unsealed": unsealed}], as_json=True)
        return
    for finding in found.findings:
        click.echo(line(str(finding), 1000))
    click.echo(f"{found.events:,} events of {found.stream_id}: {_word(not found.findings)}")
    _show_sealed(found.seal, found.sealed, unsealed)


def _show_sealed(seal: Seal | None, sealed: int, unsealed: int) -> None:
    if seal:
        click.echo(f"Sealed up to version {sealed} by seal {seal.number} of {seal.at:%Y-%m-%d %H:%M:%S} UTC.")
    _show_unsealed(unsealed)


def _show_unsealed(unsealed: int) -> None:
    if unsealed:
        last = f"last {unsealed:,} events are" if unsealed > 1 else "last event is"
        click.echo(f"The {last} not sealed yet: only chained.")


def _show_all(found: Verdict, *, as_json: bool) -> None:
    rate = found.events / found.seconds if found.seconds else 0
    if as_json:
        table([_plain(found) | {"valid": found.valid, "events_per_second": round(rate)}], as_json=True)
        return
    for finding in found.findings:
        click.echo(line(str(finding), 1000))
    told = sum(1 for finding in found.findings if finding.stream_id)
    if found.bad_streams > told:
        click.echo(f"and {found.bad_streams - told} streams more")
    word = _word(found.valid)
    click.echo(f"{found.events:,} events in {found.streams:,} streams: {word}")
    if found.seal:
        newest = f"seal {found.seal.number} of {found.seal.at:%Y-%m-%d %H:%M:%S} UTC"
        click.echo(f"Seals: {found.seals:,}, the newest is {newest}.")
    _show_unsealed(found.unsealed)
    click.echo(f"{rate:,.0f} events/s", err=True)


def _show_proven(found: Proven, *, as_json: bool) -> None:
    if as_json:
        table([_plain(found) | {"valid": True}], as_json=True)
        return
    seal = found.seal
    click.echo(f"{found.events:,} events of {found.dialogue_id}, tenant {found.tenant_id}: valid")
    click.echo(
        f"As they stood when seal {seal.number} was made, {seal.at:%Y-%m-%d %H:%M:%S} UTC by its own account;"
        " whether there were more later, a file cannot tell."
    )
    click.echo(f"{found.texts:,} texts are what was said, {found.withheld:,} are erased or not shown.")
    click.echo("Not proven: exported_at and code; each event's position and recorded_at.")


def _word(valid: bool) -> str:
    return "valid" if valid else "NOT VALID"


def _plain(found: Any) -> dict[str, Any]:
    """As JSON has it: hashes and keys in base64 but `head`, which is hexadecimal everywhere."""
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain | ({"head": found.head.hex()} if hasattr(found, "head") else {})
