"""What was acknowledged comes back, whenever the restore is cut short, and who was forgotten does not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import psycopg
import pytest

from bichat.backup.dump import back_up
from bichat.backup.restore import restore
from bichat.commands.execute import Executor
from bichat.commands.person import OrderErasure, PlaceHold, ReleaseHold
from bichat.errors.backup import (
    RestoreRefused,
    RestoreUnfinished,
)
from bichat.events import schema
from bichat.events.envelope import Actor
from bichat.events.keys import register
from bichat.events.person import ErasureOrdered, PersonErased, stream_of
from bichat.projections.processes import Database
from tests.backup.world import (
    KEPT,
    KILLED,
    SECRET,
    again,
    bichat,
    forget,
    killed,
    quiet,
    rows,
    says,
    seal,
    shown,
    sound,
    talk,
    write,
)
from tests.examples import HOLD, MASTER_KEY, TENANT, by, opened, start, writing
from tests.projections.test_rebuild import follow


def test_everything_acknowledged_comes_back_from_a_backup_that_was_made_while_writers_ran(
    log: str, store: str, there: Database, tmp_path: Path
) -> None:
    write(log, store)
    told: list[int] = []
    stop = threading.Event()

    async def go_on(executor: Executor) -> None:
        while not stop.is_set():
            done = await executor.execute(start(user="carl"), by("carl"))
            told.append(done.position)

    with opened(log, store) as ledger, writing(ledger) as executor:
        writer = threading.Thread(target=lambda: asyncio.run(go_on(executor)))
        writer.start()
        try:
            while len(told) < 100:
                stop.wait(0.01)
            before = max(told)
            made = back_up(log, tmp_path / "b", quiet)
        finally:
            stop.set()
            writer.join()
    head = made.manifest.position
    assert max(told) > head >= before  # they went on meanwhile
    done = again(there, tmp_path / "b")
    assert done.forgotten == 0
    assert rows(there.url, "stored_events") == rows(log, "stored_events", head)
    assert rows(there.url, "receipts") == rows(log, "receipts", head)
    assert rows(there.url, "seals") == rows(log, "seals")
    assert sound(there.url, rows(there.url, "seals")[-1][1]) == sound(log, 0) - sum(p > head for p in told)
    with opened(there.url, store) as ledger, writing(ledger) as executor:
        assert asyncio.run(executor.execute(start(), by())).position > head


def test_read_models_are_what_they_were(log: str, store: str, there: Database, tmp_path: Path) -> None:
    write(log, store)
    follow(log, keys_url=store)
    back_up(log, tmp_path / "b", quiet)
    again(there, tmp_path / "b")
    before, after = shown(log), shown(there.url)
    assert KEPT in str(before)
    assert before == after
    with schema.connect(there.url) as connection:
        schema.check(connection)


@pytest.mark.parametrize("step", ["checking", "restoring", "forgetting", "loading", "indexing", "verifying"])
def test_a_restore_that_is_killed_lets_nobody_start_and_completes_the_next_time(
    step: str, made: Path, log: str, there: Database, redis_url: str
) -> None:
    other = there.url
    forget(log, there.keys_url, redis_url)
    where = f"Database(url=url, keys_url=store, master_key={MASTER_KEY!r})"
    call = f"restore({where}, Path(path), progress)"
    code = KILLED.format(module="restore", name="restore", call=call)
    killed(step, code, other, there.keys_url, str(made))
    with schema.connect(other) as connection:
        if step == "checking":
            schema.check(connection)  # nothing was touched
        else:
            with pytest.raises(RestoreUnfinished, match="run `bichat restore DIR` with it again"):
                schema.check(connection)
            assert len(rows(other, "stored_events")) == 0 or step != "restoring"
    again(there, made)
    with schema.connect(other) as connection:
        schema.check(connection)
    assert not says(other, SECRET)
    assert says(other, KEPT)


def test_a_restore_half_done_waits_for_its_own_backup(
    log: str, store: str, there: Database, tmp_path: Path
) -> None:
    write(log, store)
    back_up(log, tmp_path / "b", quiet)
    back_up(log, tmp_path / "c", quiet)

    def stop(step: str, done: int, total: int) -> None:
        if step == "loading":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(there, tmp_path / "b", stop)
    with pytest.raises(RestoreRefused, match="is to be finished first"):
        again(there, tmp_path / "c")
    again(there, tmp_path / "b")


def test_an_old_backup_stays_unreadable_for_who_was_forgotten(
    made: Path, log: str, there: Database, redis_url: str, environ: dict[str, str]
) -> None:
    store = there.keys_url
    forget(log, store, redis_url)
    seal(log, store)
    done = again(there, made)
    assert (done.forgotten, done.manifest.seal, done.lost_seal) == (1, 1, 2)
    assert not says(there.url, SECRET)
    assert not says(store, SECRET)
    assert says(there.url, KEPT)
    with psycopg.connect(there.url) as connection:
        topics = [t for (t,) in connection.execute("select topic from bichat.stored_events order by 1")]
        assert topics.count("TextErased") == topics.count("PersonErased") == 1
    with psycopg.connect(store) as connection:
        left = connection.execute("select done_at is null from bichat_keys.erasures").fetchall()
        assert left == [(False,)]
    verified = bichat("audit", "verify", **environ, DATABASE_URL=there.url)
    assert (verified.returncode, "valid" in verified.stdout) == (0, True), verified.stdout + verified.stderr
    seal(there.url, store)
    assert [row[0] for row in rows(there.url, "seals")] == [1, 3]  # what is lost stays named
    verified = bichat("audit", "verify", **environ, DATABASE_URL=there.url)
    assert (verified.returncode, "valid" in verified.stdout) == (0, True), verified.stdout + verified.stderr
    sound(there.url, rows(there.url, "seals")[-1][1])


def test_who_came_back_and_was_backed_up_since_is_not_forgotten_again(
    log: str, store: str, there: Database, redis_url: str, tmp_path: Path
) -> None:
    write(log, store)
    forget(log, store, redis_url)
    with opened(log, store) as ledger, writing(ledger) as executor:
        asyncio.run(talk(executor, "Scrumdiddlyumptious", "anna"))
    back_up(log, tmp_path / "b", quiet)
    done = again(there, tmp_path / "b")
    assert done.forgotten == 0
    assert not says(there.url, SECRET)
    assert says(there.url, "Scrumdiddlyumptious")


def test_an_erasure_that_was_under_way_in_the_backup_does_not_block_a_later_one(
    made: Path, log: str, there: Database, redis_url: str, tmp_path: Path
) -> None:
    store = there.keys_url
    with opened(log, store) as ledger, writing(ledger) as executor:
        entry = register.ask(ledger.keys, TENANT, "anna", Actor("user", "olga"))
        order = OrderErasure(tenant_id=TENANT, user_id="anna", erasure_id=entry.erasure_id)
        asyncio.run(executor.execute(order, by("olga")))
    back_up(log, tmp_path / "c", quiet)
    forget(log, store, redis_url)
    with opened(log, store) as ledger, writing(ledger) as executor:
        asyncio.run(talk(executor, "Scrumdiddlyumptious", "anna"))
    forget(log, store, redis_url)
    assert again(there, tmp_path / "c").forgotten == 1
    with opened(there.url, store) as ledger, writing(ledger) as executor:
        facts = [type(event.fact) for event in ledger.read(stream_of(TENANT, "anna"))]
        assert facts == [ErasureOrdered, ErasureOrdered, PersonErased]
        asyncio.run(talk(executor, "Snozzcumber", "anna"))
    with psycopg.connect(store) as connection:  # as when the register was lost with the keys store
        connection.execute("delete from bichat_keys.erasures")
    back_up(there.url, tmp_path / "d", quiet)
    with psycopg.connect(there.url) as connection:
        connection.execute("drop schema bichat cascade")
    assert again(there, tmp_path / "d").forgotten == 0  # the first was done with the second
    with opened(there.url, store) as ledger:
        assert ledger.keys.person(TENANT, "anna")
    assert not says(there.url, SECRET)


def test_what_was_asked_and_never_ordered_does_not_hide_an_erasure_that_was(
    made: Path, log: str, there: Database, redis_url: str
) -> None:
    store = there.keys_url
    forget(log, store, redis_url)
    with opened(log, store) as ledger:
        register.ask(ledger.keys, TENANT, "anna", Actor("user", "olga"))  # and died
    again(there, made)
    with opened(there.url, store) as ledger:
        assert [type(event.fact) for event in ledger.read(stream_of(TENANT, "anna"))] == [
            ErasureOrdered, PersonErased,
        ]  # fmt: skip
        assert register.under_way(ledger.keys, 0) == []


@pytest.mark.usefixtures("made")
def test_who_was_forgotten_and_cannot_be_read_about_is_forgotten_again_and_keeps_nobody_from_starting(
    log: str, there: Database, redis_url: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    store = there.keys_url
    with opened(log, store) as ledger, writing(ledger) as executor:
        hold = PlaceHold(tenant_id=TENANT, user_id="anna", hold_id=HOLD, reason="A lawsuit")
        asyncio.run(executor.execute(hold, by("olga")))
        release = ReleaseHold(tenant_id=TENANT, user_id="anna", hold_id=HOLD)
        asyncio.run(executor.execute(release, by("olga")))
    damage = "update bichat.stored_events set state = %s where topic = 'HoldPlaced' returning state"
    with psycopg.connect(log, autocommit=True) as connection:
        (good,) = connection.execute(
            "select state from bichat.stored_events where topic = 'HoldPlaced'"
        ).fetchone() or (b"",)
        connection.execute(damage, (b"x",))
        back_up(log, tmp_path / "c", quiet)
        connection.execute(damage, (good,))
    for user in ("anna", "ben"):
        forget(log, store, redis_url, user)
    done = bichat("restore", tmp_path / "c", **environ, DATABASE_URL=there.url)
    assert done.returncode == 0, done.stderr
    assert "Forgotten again: 1" in done.stdout
    assert "Forgotten again, too, but the log cannot say so" in done.stderr
    with schema.connect(there.url) as connection:
        schema.check(connection)
        topics = [t for (t,) in connection.execute("select topic from bichat.stored_events")]
    assert topics.count("TextErased") == 2
    assert topics.count("PersonErased") == 1
    assert not says(there.url, SECRET)
    assert not says(there.url, KEPT)
    with opened(there.url, store) as ledger:
        assert not ledger.keys.generations(TENANT, "anna")
        assert len(register.under_way(ledger.keys, 0)) == 1  # a projector tries it again
