"""`bichat projections`: how the read models are, and making, proving and switching builds of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from bichat.cli import database
from bichat.cli.output import Progress, as_json, table, told
from bichat.errors import NotFound
from bichat.terminal import line

if TYPE_CHECKING:
    from bichat.projections.read_model import ReadModel
    from bichat.projections.reports import Report

jobs = click.option(
    "--jobs", type=click.IntRange(1, 64), help="Processes that read the log side by side; else one per core."
)


@click.group()
def projections() -> None:
    """The read models: how they are, and making, proving and switching builds.

    A read model has one name. `NAME_v1_g2` is its second build in the first shape of its tables. One
    build serves; others are being made, or kept for a way back.
    """


@projections.command()
@as_json
def status(as_json: bool) -> None:
    """Say of every build how it is.

    serving: read and kept up to date. unfollowed: read, but no projector runs. stopped: its projector
    cannot go on, see error. building, failed: on its way to serve, or not. standby: kept for a way back.
    """
    from bichat.projections import standing

    with database.opened() as db, database.connected(db) as connection:
        found = standing.everything(connection)
        table([one.told() if as_json else _status(one) for one in found], as_json=as_json)
    if not found:
        click.echo("There is no read model: run `bichat migrate`.", err=True)


def _status(one: Any) -> dict[str, Any]:
    phase = f" ({one.phase} {one.loaded}/{one.slices})" if one.phase == "loading" else ""
    return {
        "build": f"{one.name}_v{one.shape}_g{one.build}",
        "state": one.in_a_word + (phase or (f" ({one.phase})" if one.phase != "done" else "")),
        "position": one.position,
        "head": one.head,
        "behind": one.lag_events,
        "seconds": f"{one.lag_seconds:.1f}",
        "events/s": f"{one.rate:.0f}",
        "parked": one.parked,
        "runner": one.runner if one.running else "",
        "error": one.error,
    }


@projections.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All read models, in one pass over the log.")
@jobs
@click.option("--with-parked", is_flag=True, help="Switch although more dialogues are parked than are today.")
@click.option("--logged", is_flag=True, hidden=True)
def rebuild(
    names: tuple[str, ...], everything: bool, jobs: int | None, with_parked: bool, logged: bool
) -> None:
    """Make new builds beside those that serve, prove them right, and switch to them.

    Nobody notices: what serves is not touched before the switch, and stays for a way back (`rollback`).
    Ctrl-C stops at any time; the same command goes on from there. A build that differs from the log
    is not switched to.
    """
    from bichat.projections import rebuild as work
    from bichat.projections.processes import cores

    if bool(names) == everything:
        raise click.UsageError("Name one or several read models, or give --all.")
    stopped = database.interruptible("rebuild", "the same command goes on from there")
    with told(logged) as (say, progress), database.opened() as db, stopped:
        models = _models(names)
        done = work.rebuild(db, models, jobs=jobs or cores(), progress=progress, with_parked=with_parked)
        for one in done:
            say(f"{one.build.id} serves; the switch took {one.pause * 1000:.1f} ms")
        took = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in done[0].seconds.items())
        say(f"{done[0].report.events:,} events: {took}")


@projections.command()
@click.argument("names", nargs=-1)
@click.option("--sample", type=click.IntRange(1), help="Only about so many dialogues, at random.")
@jobs
@as_json
def verify(names: tuple[str, ...], sample: int | None, jobs: int | None, as_json: bool) -> None:
    """Compare what serves with the log, folded anew: every row, at one moment, without stopping anybody.

    Exit status 1 when something differs; then the first rows that do are shown, both sides.
    """
    from bichat.projections import verify as work
    from bichat.projections import versions
    from bichat.projections.processes import Pool, cores
    from bichat.projections.reports import keep

    with database.opened() as db, database.connected(db) as connection:
        versions.check(connection)
        builds = [build for model in _models(names) if (build := versions.serving(connection, model))]
        pool = Pool(db, jobs or cores())
        try:
            with database.interruptible("verification", "nothing of it is kept"), Progress() as progress:
                reports = work.verify(db, builds, pool, progress, sample)
        finally:
            pool.close()
        for build, report in zip(builds, reports, strict=True):
            keep(connection, build, report)
    _show(reports, as_json=as_json)
    if not all(report.valid for report in reports):
        sys.exit(1)


def _show(reports: list[Report], *, as_json: bool) -> None:
    rows = [
        {
            "build": report.build, "table": name, "rows": compared.rows, "digest": f"{compared.digest:016x}",
            "differ": compared.different, "parked": report.parked, "position": report.position,
            "verdict": "DIFFERS" if compared.different else "right",
        }
        for report in reports
        for name, compared in report.tables.items()
    ]  # fmt: skip
    if as_json:
        table([{**_plain(report), "valid": report.valid} for report in reports], as_json=True)
        return
    table(rows, as_json=False)
    for report in reports:
        for difference in report.differences:
            click.echo(f"\n{report.build}: {difference.table} {difference.key}")
            for column in difference.columns:
                for side, row in (("log", difference.expected), ("table", difference.found)):
                    click.echo(f"  {column:16} {side:6} {_clipped(row, column)}")
        if report.outdated:
            folds = f"fold {report.begun_with} of its code, this is {report.fold}"
            click.echo(f"\n{report.build} was begun with {folds}:")
            click.echo("what differs may have changed with it, and a rebuild brings it up to date.")
        if report.unsettled:
            click.echo(f"\n{report.build}: {report.unsettled} dialogues were not compared: their text cannot")
            click.echo("be opened any more, and their erasure was not yet in the log, or in the build.")
        for parked in report.undigestible:
            where = f"{parked.dialogue_id} version {parked.version}"
            click.echo(f"\n{report.build}: {where}: {line(parked.error)}")


def _clipped(row: dict[str, Any] | None, column: str) -> str:
    if row is None:
        return "(no such row)"
    text = repr(row.get(column))
    return text if len(text) <= 100 else f"{text[:97]}..."


def _plain(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


@projections.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True)
@as_json
def reports(name: str | None, limit: int, as_json: bool) -> None:
    """Print what verifications have found, the newest first; with --json, whole."""
    from bichat.projections import reports as kept

    names = [model.name for model in _models((name,) if name else ())]
    with database.opened() as db, database.connected(db) as connection:
        found = kept.newest(connection, names, limit)
    table([one.whole() if as_json else one.line() for one in found], as_json=as_json)


@projections.command()
@click.argument("names", nargs=-1)
@as_json
def parked(names: tuple[str, ...], as_json: bool) -> None:
    """List the dialogues that wait, from which of their events on, since when, and why."""
    from bichat.projections import parking

    known = {model.name for model in _models(names)}
    with database.opened() as db, database.connected(db) as connection:
        found = [one for one in parking.everywhere(connection) if one.name in known]
    table([one.told() for one in found], as_json=as_json)


@projections.command()
@click.argument("name")
@click.option("--dialogue", type=click.UUID, help="Only this one.")
def retry(name: str, dialogue: UUID | None) -> None:
    """Replay parked dialogues in order, after a fix; what still cannot be digested stays parked.

    Exit status 1 when some do.
    """
    from bichat.projections import parking, versions
    from bichat.projections.processes import desk

    [model] = _models((name,))
    still, found = 0, False
    stopped = database.interruptible("retry", "what was applied stays")
    with database.opened() as db, database.watched(), desk(db) as here, stopped:
        builds = [build for build in versions.followed(here.connection) if build.model.name == model.name]
        for build in builds:
            for one in parking.retry(here.connection, build, here.feed, dialogue):
                still, found = still + (one.parked is not None), True
                outcome = f"still parked: {one.parked.error}" if one.parked else "goes on"
                click.echo(f"{build.id} {one.dialogue_id}: {one.events} events applied, {outcome}")
    if dialogue and not found:
        raise NotFound(what=f"parked dialogue in {name}")
    sys.exit(1 if still else 0)


@projections.command()
@click.argument("name")
def rollback(name: str) -> None:
    """Let the build serve again that was kept when the last rebuild switched."""
    from bichat.errors.unusable import NoWayBack
    from bichat.projections import versions

    [model] = _models((name,))
    with database.opened() as db, database.connected(db) as connection:
        kept = versions.kept(connection, model)
        if not kept:
            raise NoWayBack(name=name)
        pause = versions.switch(connection, kept[0])
    click.echo(f"{kept[0].id} serves; the switch took {pause * 1000:.1f} ms")


@projections.command()
@click.argument("build")
@click.option(
    "--serving", is_flag=True, help="Also one that serves code of another shape, which is not in use."
)
def drop(build: str, serving: bool) -> None:
    """Drop a build that does not serve, as `status` calls it: dialogues_v1_g1."""
    from bichat.projections import versions

    with database.opened() as db, database.connected(db) as connection:
        versions.drop_named(connection, build, serving=serving)
    click.echo(f"{build} is gone")


# --- what they share ------------------------------------------------------------------------------


def _models(names: tuple[str, ...]) -> list[ReadModel]:
    from bichat.projections.versions import MODELS

    known = {model.name: model for model in MODELS}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"there is no read model {name!r}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(MODELS)
