"""A new build is made beside the one that serves, proved right, and switched to, whatever comes between."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace

from bichat.errors.unusable import (
    BuildUnfit,
    ProcessFailed,
    ReadModelsMissing,
    RebuildDiffers,
    RebuildOutdated,
    RebuildParks,
    RebuildRuns,
    RebuildStopped,
    SwitchTimedOut,
)
from bichat.events import slices
from bichat.events.dialogue import DialogueRenamed, MessageAdded, ReplyStarted
from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.projections import following, load, parking, processes, rebuild, versions
from bichat.projections.processes import Database
from bichat.projections.read_model import Build, ReadModel
from bichat.projections.rebuild import Rebuilt
from bichat.projections.requested import Requested, request, waiting
from bichat.projections.runner import Runner, connect
from bichat.projections.versions import MODELS
from tests.examples import MASTER_KEY, SHOWN, opened
from tests.projections.histories import BUILDS, history
from tests.projections.logs import write

PICKS = random.Random(7)
LOG = history([(PICKS.randrange(9), PICKS.randrange(19), PICKS.randrange(6)) for _ in range(300)])
SOME, REST = LOG[: len(LOG) // 2], LOG[len(LOG) // 2 :]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices of a small log, several pieces of a dialogue, and nobody waits for a projector."""
    monkeypatch.setattr(slices, "SLICE", 40)
    monkeypatch.setattr(load, "PIECE", 10)
    monkeypatch.setattr(following, "LEFT_ALONE", 0.1)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def quiet(step: str, done: int, total: int) -> None:
    """Nobody looks."""


def place(url: str) -> Database:
    return Database(url=url, keys_url=url, master_key=MASTER_KEY)


def rebuilt(
    url: str, *names: str, progress: Callable[[str, int, int], None] = quiet, jobs: int = 0, **more: bool
) -> list[Rebuilt]:
    models = [model for model in MODELS if not names or model.name in names]
    return rebuild.rebuild(place(url), models, jobs=jobs, progress=progress, **more)


def follow(url: str, builds: Sequence[Build] = BUILDS, keys_url: str | None = None) -> None:
    """Brings builds up to where the log is."""
    with opened(url, keys_url) as ledger, connect(url) as connection:
        feed = Feed(ledger.keys)
        for build in builds:
            row = connection.execute(
                "select position from bichat.checkpoints where (name, shape, build) = (%s, %s, %s)", build.key
            ).fetchone()
            assert row
            position, runner = row[0], Runner(build, url, NoSource())
            while entries := feed.read(connection, position, random.randint(1, 60)):
                runner.apply(connection, position, entries)
                position = entries[-1].position


class NoSource:
    def next(self, *_: Any) -> Any:
        return []


def rows(url: str, build: Build) -> dict[str, list[Any]]:
    """What is in the tables, without the build's number."""
    with psycopg.connect(url) as connection:
        return {
            name.name: connection.execute(
                f"select to_jsonb(t) from {table} t order by to_jsonb(t)::text".encode()
            ).fetchall()
            for name, table in zip(build.model.tables, build.tables, strict=True)
        }


def serving(url: str) -> list[Build | None]:
    with psycopg.connect(url) as connection:
        return [versions.serving(connection, model) for model in MODELS]


def shown(url: str, model: ReadModel) -> list[Any]:
    with psycopg.connect(url) as connection:
        return [
            connection.execute(
                f"select to_jsonb(t) from {view} t order by to_jsonb(t)::text".encode()
            ).fetchall()
            for view in model.views
        ]


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_a_rebuild_of_everything_serves_what_was_served(database_url: str, ledger: Ledger, jobs: int) -> None:
    write(ledger, LOG)
    follow(database_url)
    before = [shown(database_url, model) for model in MODELS]
    done = rebuilt(database_url, jobs=jobs)
    assert serving(database_url) == [replace(build, number=2) for build in BUILDS]
    assert [shown(database_url, model) for model in MODELS] == before
    for old, new in zip(BUILDS, done, strict=True):
        assert rows(database_url, old) == rows(database_url, new.build)
        assert new.report.valid
        assert new.report.events == len(LOG)


def test_an_empty_log_can_be_rebuilt_from(database_url: str) -> None:
    assert all(one.report.valid for one in rebuilt(database_url))


def test_the_new_build_is_indexed_and_guarded_like_the_first(database_url: str) -> None:
    rebuilt(database_url)
    with psycopg.connect(database_url) as connection:
        for build in BUILDS:
            for old, new in zip(build.tables, replace(build, number=2).tables, strict=True):
                assert described(connection, old) == described(connection, new).replace("_g2", "_g1")


def described(connection: psycopg.Connection[Any], table: str) -> str:
    found = connection.execute(
        """
        select (select string_agg(indexdef, E'\\n' order by indexdef) from pg_indexes
                where schemaname || '.' || tablename = %(table)s),
               (select string_agg(policyname || qual, ' ') from pg_policies
                where schemaname || '.' || tablename = %(table)s),
               (select relrowsecurity::text || coalesce(reloptions::text, '') || coalesce(relacl::text, '')
                from pg_class where oid = %(table)s::regclass)
        """,
        {"table": table},
    ).fetchone()
    return str(found)


def test_what_is_written_meanwhile_is_in_it(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    rest = iter([REST[:40], REST[40:80], REST[80:]])

    def also(step: str, done: int, total: int) -> None:
        if (step, done) in (("loading", 0), ("indexing", 1), ("verifying", 0)):
            write(ledger, next(rest))

    rebuilt(database_url, progress=also)
    follow(database_url)
    for old in BUILDS:
        new = replace(old, number=2)
        follow(database_url, [new])
        assert rows(database_url, old) == rows(database_url, new)


def test_the_last_build_is_kept_and_followed_for_a_way_back(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    rebuilt(database_url, "dialogues")
    [first] = [build for build in BUILDS if build.model.name == "dialogues"]
    second = replace(first, number=2)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.prepare_threshold = None
        assert versions.kept(connection, first.model) == [first]
        assert {first, second} <= set(versions.followed(connection))
        write(ledger, REST)
        follow(database_url, [first, second])
        versions.switch(connection, first)
        assert versions.serving(connection, first.model) == first
        assert versions.kept(connection, first.model) == [second]
        rebuilt(database_url, "dialogues")
        assert versions.serving(connection, first.model) == replace(first, number=3)
        assert versions.kept(connection, first.model) == [first]
        with pytest.raises(BuildUnfit, match="dialogues_v1_g3 serves"):
            versions.drop_named(connection, "dialogues_v1_g3")
        versions.drop_named(connection, "dialogues_v1_g1")
        assert versions.kept(connection, first.model) == []
        for name in ("dialogues_v1_g1", "dialogues", "x; drop table bichat.stored_events", "log_v1_g1"):
            with pytest.raises(BuildUnfit, match="is no build"):
                versions.drop_named(connection, name)


def test_a_build_that_is_behind_is_not_switched_to(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(database_url, "usage")
    write(ledger, SOME)
    [old] = [build for build in BUILDS if build.model.name == "usage"]
    follow(database_url, [replace(old, number=2)])
    monkeypatch.setattr(versions, "PATIENCE", 0.3)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.prepare_threshold = None
        with pytest.raises(SwitchTimedOut, match="does not catch up"):
            versions.switch(connection, old)
        assert versions.serving(connection, old.model) == replace(old, number=2)


def test_the_switch_gives_way_to_a_reader_and_then_comes(database_url: str) -> None:
    with psycopg.connect(database_url) as reader:
        reader.execute("select from bichat.usage_v1").fetchall()  # in a transaction that stays open
        thread = threading.Thread(target=rebuilt, args=(database_url, "usage"))
        thread.start()
        thread.join(2.5)
        assert thread.is_alive()
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("set statement_timeout = '1s'")
            other.execute("select from bichat.usage_v1")  # nobody queues behind the switch for long
        reader.commit()
        thread.join(10)
    assert [build.number for build in serving(database_url) if build and build.model.name == "usage"] == [2]


class Stop(Exception):
    """Interrupted."""


def interrupting(step: str, after: int) -> Callable[[str, int, int], None]:
    calls = iter(range(10**6))

    def progress(now: str, done: int, total: int) -> None:
        if now == step and next(calls) >= after:
            raise Stop

    return progress


@pytest.mark.parametrize(
    ("step", "after"), [("loading", 0), ("loading", 3), ("indexing", 1), ("following", 0), ("verifying", 2)]
)
def test_an_interrupted_rebuild_goes_on_where_it_was(
    database_url: str, ledger: Ledger, step: str, after: int
) -> None:
    write(ledger, LOG)
    follow(database_url)
    with pytest.raises(Stop):
        rebuilt(database_url, progress=interrupting(step, after))
    assert serving(database_url) == BUILDS
    said: list[tuple[str, int, int]] = []
    rebuilt(database_url, progress=lambda *what: said.append(what))
    loads = [done for step, done, _ in said if step == "loading"]
    if step == "loading":
        assert (loads[0] > 0) == (after > 0)
    else:
        assert loads == []
    for build in BUILDS:
        assert rows(database_url, build) == rows(database_url, replace(build, number=2))


def test_a_newer_fold_does_not_go_on_with_an_older_ones_build(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    with pytest.raises(Stop):
        rebuilt(database_url, "usage", progress=interrupting("loading", 2))
    [usage] = [model for model in MODELS if model.name == "usage"]
    newer = replace(usage, fold=usage.fold + 1)
    said: list[tuple[str, int, int]] = []
    rebuild.rebuild(place(database_url), [newer], jobs=0, progress=lambda *what: said.append(what))
    assert said[0][:2] == ("loading", 0)
    with psycopg.connect(database_url) as connection:
        old_code = [build.id for build in versions.followed(connection)]
    assert "usage_v1_g3" not in old_code  # it serves now, but only newer code may feed it
    with pytest.raises(RebuildOutdated, match=f"fold {newer.fold}, this is {usage.fold}"):
        rebuilt(database_url, "usage")


def test_a_new_shape_is_filled_before_it_serves_and_leaves_the_old_one_alone(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ledger, SOME)
    follow(database_url)
    [old] = [build for build in BUILDS if build.model.name == "usage"]
    model = replace(old.model, shape=2)
    new_code = tuple(model if m.name == "usage" else m for m in MODELS)
    before = rows(database_url, old)
    monkeypatch.setattr(versions, "MODELS", new_code)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.prepare_threshold = None
        assert versions.ensure(connection) == []
        with pytest.raises(ReadModelsMissing, match="usage_v2"):
            versions.check(connection)
        assert [m.name for m in versions.missing(connection)] == ["usage"]
        [done] = rebuild.rebuild(place(database_url), [model], jobs=0, progress=quiet)
        assert done.build.id == "usage_v2_g1"
        versions.check(connection)
        assert versions.serving(connection, old.model) == old
        assert {"usage_v2_g1"} <= {build.id for build in versions.followed(connection)}
        assert "usage_v1_g1" not in {build.id for build in versions.followed(connection)}
        assert rows(database_url, old) == before == rows(database_url, done.build)
        with pytest.raises(BuildUnfit, match="code of another shape"):
            versions.drop_named(connection, "usage_v1_g1")
        versions.drop_named(connection, "usage_v1_g1", serving=True)  # nobody follows or knows it any more
        assert connection.execute("select to_regclass('bichat.usage_v1')").fetchone() == (None,)


def test_one_rebuild_of_a_read_model_at_a_time(database_url: str) -> None:
    with pytest.raises(Stop):
        rebuilt(database_url, "usage", progress=interrupting("loading", 0))
    with psycopg.connect(database_url) as other:
        other.execute("select pg_advisory_lock(hashtextextended('bichat.rebuild.usage', 0))")
        with pytest.raises(
            RebuildRuns, match=r"usage_v1_g2 is being built already, since .* by .*:\d+ \(loading\)"
        ):
            rebuilt(database_url, "usage")
        rebuilt(database_url, "dialogues")
        other.execute("select pg_advisory_unlock_all()")  # a session ends after its client
    rebuilt(database_url, "usage")


def test_a_build_that_differs_is_not_switched_to(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    follow(database_url)

    def tamper(step: str, done: int, total: int) -> None:
        if (step, done) == ("following", 0):
            with psycopg.connect(database_url) as connection:
                connection.execute("update bichat.usage_v1_g2 set calls = calls + 1")

    with pytest.raises(RebuildDiffers, match=r"usage_v1_g2 differs from the log.*usage .*: calls"):
        rebuilt(database_url, "usage", progress=tamper)
    assert serving(database_url) == BUILDS
    with psycopg.connect(database_url) as connection:
        found = connection.execute("select phase, error from bichat.builds where build = 2").fetchone()
        assert found
        assert found[0] == "failed"
        assert "calls" in found[1]
        assert connection.execute("select valid from bichat.reports").fetchall() == [(False,)]
        assert "usage_v1_g2" not in {build.id for build in versions.followed(connection)}
    [done] = rebuilt(database_url, "usage")
    assert done.build.id == "usage_v1_g3"
    assert done.build in serving(database_url)


def cut(url: str, application: str = "bichat-projector") -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and application_name = %s",
            (application,),
        )


@pytest.mark.parametrize("step", ["loading", "indexing", "following", "verifying"])
def test_a_database_that_goes_away_stops_it_in_one_line(database_url: str, ledger: Ledger, step: str) -> None:
    write(ledger, SOME)
    follow(database_url)
    with pytest.raises(RebuildStopped, match="Nothing was switched"):
        rebuilt(database_url, progress=lambda now, done, total: cut(database_url) if now == step else None)
    assert serving(database_url) == BUILDS
    rebuilt(database_url)
    for build in BUILDS:
        assert rows(database_url, build) == rows(database_url, replace(build, number=2))


def torn(url: str, event: Event) -> None:
    """What a bad disk or a bad hand leaves."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "update bichat.stored_events set state = '{'"
            " where originator_id = %s and originator_version = %s",
            (event.stream_id, event.version),
        )


def test_what_it_cannot_digest_keeps_it_from_serving_unless_the_old_one_could_not(
    database_url: str, ledger: Ledger
) -> None:
    write(ledger, SOME)
    follow(database_url)
    bad = SOME[40]
    torn(database_url, bad)
    with pytest.raises(RebuildParks, match="usage_v1_g2 cannot digest 1 dialogues"):
        rebuilt(database_url, "usage")
    assert serving(database_url) == BUILDS
    [done] = rebuilt(database_url, "usage", with_parked=True)
    assert done.report.parked == 1
    [again] = rebuilt(database_url, "usage")
    assert again.build.id == "usage_v1_g3"
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select dialogue_id, version from bichat.parked where build = 3"
        ).fetchall()
    assert found == [(bad.stream_id, bad.version)]


def test_leases_are_left_alone(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    with psycopg.connect(database_url, autocommit=True) as connection:
        lease = (UUID(int=1), UUID(int=2), UUID(int=3), "a worker")
        connection.execute("insert into bichat.reply_leases values (%s, %s, %s, %s, now())", lease)
        before = connection.execute("select l, xmin::text from bichat.reply_leases l").fetchall()
        rebuilt(database_url, "replies")
        assert connection.execute("select l, xmin::text from bichat.reply_leases l").fetchall() == before


class Dies:
    def __call__(self, here: processes.Desk) -> int:
        os._exit(1)


def test_a_process_that_is_killed_is_said_and_nothing_hangs(database_url: str) -> None:
    pool = processes.Pool(place(database_url), 2)
    try:
        with pytest.raises(ProcessFailed):
            list(pool.each([Dies(), Dies(), Dies()]))
    finally:
        pool.close()


SESSIONS = pytest.mark.skipif(
    not processes.AUTOGROUP.exists() or not shutil.which("setpriv"),
    reason="no sessions that share processors",
)


class Share:
    def __call__(self, here: processes.Desk) -> tuple[bool, int, list[Any]]:
        names = ("max_parallel_workers_per_gather", "max_parallel_maintenance_workers")
        rows = [here.connection.execute(f"show {name}".encode()).fetchone() for name in names]
        return os.getsid(0) == os.getpid(), os.nice(0), rows


class Session:
    def __call__(self, here: processes.Desk) -> str:
        deadline = time.monotonic() + 20
        while (said := processes.AUTOGROUP.read_text().split(" ", 1)[1]) == "nice 0\n":
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return said


def in_a_pool(url: str, task: processes.Task[Any]) -> list[Any]:
    pool = processes.Pool(place(url), 2)
    try:
        return list(pool.each([task, task]))
    finally:
        pool.close()


def test_who_rebuilds_gives_way(database_url: str) -> None:
    assert in_a_pool(database_url, Share()) == [(True, 19, [("0",), ("0",)])] * 2


@SESSIONS
def test_who_rebuilds_gives_way_to_other_sessions(database_url: str) -> None:
    assert in_a_pool(database_url, Session()) == ["nice 19\n"] * 2


@pytest.mark.parametrize(("names", "helpers"), [(("usage",), "3"), (("usage", "dialogues", "search"), "0")])
def test_an_index_has_the_processors_that_were_asked_for_and_are_idle(
    database_url: str, names: tuple[str, ...], helpers: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table public.seen (helpers text)")
        connection.execute("""
            create function public.see() returns event_trigger language plpgsql as $$ begin
                insert into public.seen values (current_setting('max_parallel_maintenance_workers'));
            end $$;
            create event trigger see on ddl_command_end
            when tag in ('ALTER TABLE', 'CREATE INDEX') execute function public.see()
        """)
        rebuilt(database_url, *names, jobs=4)
        assert set(connection.execute("select helpers from public.seen").fetchall()) == {(helpers,)}


STAND_BACK = """
import os
from bichat.projections import processes
for n in range(3):
    if not os.fork():
        os.setsid()
        processes._stand_back()
        print(processes.AUTOGROUP.read_text(), end="", flush=True)
        os._exit(0)
for n in range(3):
    os.wait()
"""


@SESSIONS
def test_each_session_gets_its_small_share_also_when_several_wish_for_it_at_once() -> None:
    as_others_are = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]  # root need not wait
    argv = [*(as_others_are if os.getuid() == 0 else []), sys.executable, "-c", STAND_BACK]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert [line.partition(" ")[2] for line in said] == ["nice 19"] * 3


def overflowing(log: Sequence[Event]) -> list[Event]:
    """`log`, and then an attempt that no column can hold, and one more event of its dialogue."""
    asked = next(e for e in reversed(log) if isinstance(e.fact, MessageAdded) and e.fact.asks)
    version = max(e.version for e in log if e.stream_id == asked.stream_id)
    assert isinstance(asked.fact, MessageAdded)
    started = ReplyStarted(
        message_id=asked.fact.message_id, attempt=2**40, model="m", shown=SHOWN, request_digest="00"
    )
    facts = (started, DialogueRenamed(label="after all"))
    added = [replace(asked, version=version + n, fact=fact) for n, fact in enumerate(facts, 1)]
    return [*log, *added]


@pytest.mark.parametrize("jobs", [0, 2])
def test_what_the_database_refuses_parks_its_dialogue_as_it_does_live(
    database_url: str, ledger: Ledger, jobs: int
) -> None:
    log = overflowing(SOME)
    write(ledger, log)
    follow(database_url)
    [done] = rebuilt(database_url, "transcripts", jobs=jobs)
    assert done.report.valid
    with connect(database_url) as connection:
        old, new = (parking.parked(connection, replace(done.build, number=n)) for n in (1, 2))
        assert [(one.dialogue_id, one.version) for one in old] == [(log[-1].stream_id, log[-2].version)]
        assert [(one.dialogue_id, one.version) for one in new] == [(log[-1].stream_id, 1)]
        list(parking.retry(connection, done.build, Feed(ledger.keys)))
        assert [one.version for one in parking.parked(connection, done.build)] == [log[-2].version]
    assert rows(database_url, done.build) == rows(database_url, BUILDS[0])


def test_a_switch_that_was_committed_is_done_whatever_came_then(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ledger, SOME)
    follow(database_url)

    def cut_off(connection: psycopg.Connection[Any], build: Build) -> float:
        switch(connection, build)
        cut(database_url)
        connection.execute("select 1")
        return 0.0

    switch = versions.switch
    monkeypatch.setattr(versions, "switch", cut_off)
    with pytest.raises(RebuildStopped, match="What serves says"):
        rebuilt(database_url, "usage")
    monkeypatch.setattr(versions, "switch", switch)
    [usage] = [build for build in BUILDS if build.model.name == "usage"]
    assert replace(usage, number=2) in serving(database_url)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select phase from bichat.builds").fetchall() == [("done",)]
        assert versions.kept(connection, usage.model) == [usage]  # the way back
        assert replace(usage, number=2) in versions.followed(connection)


def test_of_two_switches_the_later_looks_again(database_url: str, ledger: Ledger) -> None:
    rebuilt(database_url, "usage")
    write(ledger, SOME)
    [old] = [build for build in BUILDS if build.model.name == "usage"]
    new = replace(old, number=2)
    follow(database_url, [new])
    with psycopg.connect(database_url) as other, psycopg.connect(database_url, autocommit=True) as mine:
        mine.prepare_threshold = None
        other.execute("select pg_advisory_xact_lock(hashtextextended('bichat.serving', 0))")
        failed: list[Exception] = []

        def back() -> None:
            try:
                versions.switch(mine, old)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=back)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        follow(database_url, [old])
        other.rollback()
        thread.join(10)
        assert failed == []
        assert versions.serving(mine, old.model) == old


def test_requests_are_filed_once_and_not_taken_for_work(database_url: str) -> None:
    [usage] = [model for model in MODELS if model.name == "usage"]

    async def twice() -> list[Requested]:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute("set role bichat_reader")
            return [await request(connection, usage) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first == second
    assert not first.held
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert waiting(connection) == ["usage"]
        connection.execute("update bichat.checkpoints set fold = fold + 1 where build = 2")
        assert waiting(connection) == []  # newer code's
        connection.execute("update bichat.checkpoints set fold = fold - 1 where build = 2")
        with psycopg.connect(database_url) as other:
            other.execute("select pg_advisory_lock(hashtextextended('bichat.rebuild.usage', 0))")
            assert waiting(connection) == []
            assert asyncio.run(twice())[0].held
            other.execute("select pg_advisory_unlock_all()")
    [done] = rebuilt(database_url, "usage")
    assert done.build.number == first.build


def test_readers_cannot_make_the_owners_functions_see_their_own_tables(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
            " where n.nspname = 'bichat' and p.prosecdef"
            " and not coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false)"
        ).fetchall()
    assert found == [("head",)]  # it names its one table with its schema
