"""Every kind of tampering, done with SQL on a real log: the first bad event is named, and why."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from bichat.audit import checking
from bichat.projections.processes import Database, Pool
from tests.audit.sealed import END, OTHER, SEALED, Log, hash_anew, sealed
from tests.examples import DIALOGUE, MASTER_KEY, OTHER_TENANT, start

EVENT = f"bichat.stored_events where originator_id = '{DIALOGUE}' and originator_version"
SET = (
    "update bichat.stored_events set {} where originator_id = '"
    + str(DIALOGUE)
    + "' and originator_version {}"
)
RENUMBER = [
    SET.format("originator_version = originator_version + 1000", "{}"),
    SET.format("originator_version = originator_version - 1000 + {}", "> 1000"),
]
SWAP = [
    SET.format("originator_version = 99", "= 4"), SET.format("originator_version = 4", "= 5"),
    SET.format("originator_version = 5", "= 99"),
]  # fmt: skip
COPY = (
    "insert into bichat.stored_events (notification_id, originator_id, originator_version, topic, state,"
    " tenant_id, command_id, hash, actor) select {}, {}, {}, topic, state, tenant_id, {}, hash, actor from "
    + EVENT
    + " = {}"
)
NEXT = "nextval('bichat.log_position')"
SEALS = "update bichat.seals set {} where number = {}"


def shift(after: int, by: int) -> list[str]:
    first, second = RENUMBER
    return [first.format(f"> {after}"), second.format(by)]


TAMPERINGS: dict[str, tuple[list[str], int | None, str]] = {
    "text": ([SET.format(f"state = (select state from {EVENT} = 3)", "= 4")], 4,
             "changed: what it says is not what was hashed; the events after it fit its hash"),
    "time": ([SET.format("state = overlay(state placing '1'::bytea from 15)", "= 6")], 6,
        "changed: what it says is not what was hashed; the events after it fit its hash"),
    "hash": ([SET.format("hash = sha256('x')", "= 4")], 4,
             "changed: its stored hash was changed; what it says is as it was"),
    "topic": ([SET.format("topic = 'DialogueArchived'", "= 4")], 4,
              "changed: its column topic was DialogueRenamed, and is DialogueArchived"),
    "tenant": ([SET.format(f"tenant_id = '{OTHER_TENANT}'", "= 4")], 4, "changed: its column tenant_id was "),
    "command": ([SET.format("command_id = gen_random_uuid()", "= 4")], 4, "changed: what it says is not"),
    "actor": ([SET.format("actor = 'eve'", "= 4")], 4,
              "changed: its column actor is eve, though anna caused it"),
    "position": ([SET.format("notification_id = 1000000", "= 4")], 5, "changed: its position is not after"),
    "last unsealed event": ([SET.format("state = state || ' '::bytea", "= 7")], END,
                            "changed: it does not fit the event before it"),
    "removed": ([f"delete from {EVENT} = 4"], 4, "removed: version 4 is missing, version 5 follows"),
    "several removed": ([f"delete from {EVENT} in (2, 3, 4)"], 2,
                        "removed: versions 2 to 4 are missing, version 5 follows"),
    "first removed": ([f"delete from {EVENT} = 1"], 1, "removed: version 1 is missing, version 2 follows"),
    "removed and renumbered": ([f"delete from {EVENT} = 4", *shift(4, -1)], 4,
                               "removed: an event is missing, and what stands here was version 5"),
    "two removed and renumbered": ([f"delete from {EVENT} in (3, 4)", *shift(4, -2)], 3,
                                   "removed: 2 events are missing, and what stands here was version 5"),
    "inserted": ([*shift(3, 1), COPY.format(NEXT, f"'{DIALOGUE}'", 4, "gen_random_uuid()", 3)], 4,
                 "inserted: it was put in: version 5 is chained to version 3"),
    "inserted first": ([*shift(0, 1), COPY.format(NEXT, f"'{DIALOGUE}'", 1, "gen_random_uuid()", 3)], 1,
                       "inserted: it was put in: version 2 is the stream's first"),
    "version 0": ([COPY.format(NEXT, f"'{DIALOGUE}'", 0, "gen_random_uuid()", 3)], 0,
                  "inserted: there is no such version: they count from 1"),
    "reordered": (SWAP, 4, "reordered: the event that belongs here now stands as version 5"),
    "truncated": ([f"delete from {EVENT} >= 5"], 5,
                  "truncated: versions 5 to 6 are missing at the end, sealed by seal 2"),
    "truncated by one": ([f"delete from {EVENT} >= {SEALED}"], SEALED,
                         "truncated: version 6 is missing at the end, sealed by seal 2"),
    "dialogue removed": ([f"delete from {EVENT} > 0"], 1,
                         "dialogue removed: the whole stream is gone, of which seal 2 has 6 versions"),
    "leaf changed": ([f"update bichat.seal_leaves set leaf = sha256('x') where stream_id = '{OTHER}'"], None,
                     ""),
    "own leaf changed": (
        [f"update bichat.seal_leaves set leaf = sha256('x') where stream_id = '{DIALOGUE}' and seal = 2"], 4,
        "rewritten: the stream was hashed anew: versions 4 to 6 fit each other, but not seal 2: hashed anew"
        " after that, or its leaf was changed: that seal is broken"),
    "leaf removed": ([f"delete from bichat.seal_leaves where stream_id = '{DIALOGUE}' and seal = 2"], 4,
                     "inserted: it stands within what is sealed, under no seal: put in later, or its position"
                     " was changed, or its leaf was taken from a seal that is broken"),
    "truncated, leaf removed": (
        [f"delete from bichat.seal_leaves where stream_id = '{DIALOGUE}' and seal = 2",
         f"delete from {EVENT} > 3"], None, "seal 2: seal changed: it has 1 leaves, and 2 were sealed"),
    "truncated, leaf given to another": (
        ["update bichat.seal_leaves set stream_id = '01a00000-0000-7000-8000-00000000000c'"
         f" where stream_id = '{DIALOGUE}' and seal = 2", f"delete from {EVENT} > 3"], None, "seal 2"),
    "seal changed": ([SEALS.format("at = at + interval '1 day'", 2)], None,
                     "seal 2: seal changed: what it says is not what was hashed"),
    "seal's signature": ([SEALS.format("signature = sha512('x')", 2)], None,
                         "seal 2: seal forged: its signature is wrong"),
    "seal's hash": ([SEALS.format("hash = sha256('x')", 1)], None, "seal 1: seal changed: what it says"),
    "seal removed": (["delete from bichat.seal_leaves where seal = 1",
                      "delete from bichat.seals where number = 1"], None,
                     "seal 1: seal removed: seal 1 is missing, seal 2 follows"),
    "newest seal removed": (["delete from bichat.seal_leaves where seal = 2",
                             "delete from bichat.seals where number = 2"], None,
                            "seal 2: log cut off: seal 2 is gone, which the keys store remembers"),
    "log and seals cut off": (
        ["delete from bichat.seal_leaves where seal = 2",
         "delete from bichat.stored_events where notification_id > (select position from bichat.seals"
         " where number = 1)", "delete from bichat.seals where number = 2"], None,
        "seal 2: log cut off: seal 2 is gone, which the keys store remembers"),
}  # fmt: skip


@pytest.fixture
def log(database_url: str) -> Iterator[Log]:
    with sealed(database_url) as log:
        yield log


def tamper(log: Log, statements: list[str]) -> None:
    with psycopg.connect(log.url, autocommit=True) as connection:
        for statement in statements:
            assert connection.execute(statement.encode()).rowcount > 0, statement


def whole(log: Log) -> checking.Verdict:
    database = Database(url=log.url, keys_url=log.url, master_key=MASTER_KEY)
    return checking.verify(database, Pool(database, 0), lambda step, done, total: None)


def test_what_nobody_touched_is_valid_and_what_is_not_sealed_is_told(log: Log) -> None:
    one, all_ = log.check(), whole(log)
    assert (one.findings, one.events, one.sealed, one.seal and one.seal.number) == ([], END, SEALED, 2)
    assert (all_.valid, all_.events, all_.streams, all_.seals, all_.unsealed) == (True, 15, 5, 2, 1)


LEAF = f"update bichat.seal_leaves set version = 0 where stream_id = '{DIALOGUE}'"
BEHIND = SET.format(f"notification_id = {NEXT}", "> 0")


@pytest.mark.parametrize(
    "touched",
    [
        pytest.param([SET.format("state = state || ' '::bytea", "= 2"), BEHIND], id="hashed anew"),
        pytest.param([f"delete from {EVENT} >= 3", BEHIND], id="cut off"),
        pytest.param([SET.format(f"tenant_id = '{OTHER_TENANT}'", "> 0"), BEHIND], id="moved"),
    ],
)
def test_a_leaf_that_is_of_no_version_hides_nothing(log: Log, touched: list[str]) -> None:
    tamper(log, touched)
    with psycopg.connect(log.url, autocommit=True) as connection:
        hash_anew(connection)
    tamper(log, [LEAF])
    for findings in (log.check().findings, whole(log).findings):
        [found] = [one for one in findings if one.stream_id == DIALOGUE]
        assert found.what == "rewritten"
        assert "was changed, which is of no version" in found.reason


def test_a_leaf_that_was_given_away_hides_nothing(log: Log) -> None:
    given = "update bichat.seal_leaves set stream_id = '{}', version = 0 where stream_id = '{}' and seal = 2"
    tamper(log, [f"delete from {EVENT} > 3", given.format(OTHER, DIALOGUE)])
    assert not whole(log).valid
    assert log.check().findings
    assert log.check(OTHER).findings


def test_what_seals_say_counts_for_more_than_positions(log: Log) -> None:
    tamper(log, SWAP)
    with psycopg.connect(log.url, autocommit=True) as connection:
        hash_anew(connection)
    assert log.check().findings[0].what == "rewritten"


def test_what_is_left_of_a_dialogue_cut_off_is_not_vouched_for(log: Log) -> None:
    tamper(log, [SET.format("state = state || ' '::bytea", "= 1"), f"delete from {EVENT} >= 3"])
    with psycopg.connect(log.url, autocommit=True) as connection:
        hash_anew(connection)
    assert "whether versions 1 to 2 are as they were, no seal tells" in log.check().findings[0].reason


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found_and_named(log: Log, kind: str) -> None:
    statements, version, reason = TAMPERINGS[kind]
    tamper(log, statements)
    if reason:
        [first, *_] = found = log.check().findings
        told = f"{first.what}: {first.reason}" if first.version is not None else str(first)
        assert told.startswith(reason), found
        assert first.version == version
    everything = whole(log)
    assert not everything.valid
    assert kind.startswith("truncated, leaf") or reason in "\n".join(map(str, everything.findings))


def test_a_dialogue_hashed_anew_fits_itself_but_no_seal(log: Log) -> None:
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute(SET.format("state = state || ' '::bytea", "= 5").encode())
        hash_anew(connection)
    [found] = log.check().findings
    assert (found.what, found.version) == ("rewritten", 4)
    assert "versions 4 to 6 fit each other, but not seal 2" in found.reason
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute(SET.format("state = state || ' '::bytea", "= 1").encode())
        hash_anew(connection)
    [found] = log.check().findings
    assert (found.what, found.version) == ("rewritten", 1)
    assert found.reason.startswith("the whole stream was hashed anew: versions 1 to 3 fit each other")
    assert whole(log).findings == [found]


def test_what_is_only_chained_can_be_hashed_anew_and_that_is_said(log: Log) -> None:
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute(SET.format("state = state || ' '::bytea", f"= {END}").encode())
        hash_anew(connection, after=SEALED)
    found = log.check()
    assert (found.findings, found.events - found.sealed) == ([], 1)
    log.seal()
    assert log.check().sealed == END


def test_a_dialogue_put_among_what_is_sealed_is_found(log: Log) -> None:
    new = uuid4()
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute("update bichat.stored_events set notification_id = notification_id * 100")
        connection.execute("update bichat.seals set position = position * 100")  # is found as well
        connection.execute(COPY.format(50, f"'{new}'", 1, "gen_random_uuid()", 1).encode())
        hash_anew(connection, new)
    found = whole(log).findings
    assert [(f.stream_id, f.what) for f in found if f.stream_id] == [(new, "dialogue inserted")]


def test_a_seal_by_another_key_is_forged_and_a_given_key_decides(log: Log) -> None:
    known = log.signer.remembered().public_keys
    assert not log.check(trusted=known).findings
    found = log.check(trusted=frozenset([bytes(32)])).findings
    assert [(f.what, f.seal) for f in found] == [("seal forged", 1), ("seal forged", 2)]
    assert "is not trusted here" in found[0].reason


def test_after_seals_were_cut_off_numbers_go_on_and_the_gap_stays(log: Log) -> None:
    tamper(log, TAMPERINGS["newest seal removed"][0])
    log.seal()
    [found] = [f for f in log.check().findings if f.seal]
    assert (found.what, found.reason) == ("seal removed", "seal 2 is missing, seal 3 follows")


def test_the_same_backup_may_be_restored_again(log: Log) -> None:
    cut = TAMPERINGS["log and seals cut off"][0]
    tamper(log, cut)
    assert log.signer.set_back(1)
    log.execute(start())
    log.seal()  # seal 3
    tamper(
        log,
        [statement.replace("seal = 2", "seal = 3").replace("number = 2", "number = 3") for statement in cut],
    )
    assert log.signer.set_back(1)
    assert [(one.kept, one.lost) for one in log.signer.remembered().set_backs] == [(1, 2), (1, 3)]
    assert whole(log).valid


def test_seals_that_went_with_a_restore_are_no_tampering(log: Log) -> None:
    tamper(log, TAMPERINGS["log and seals cut off"][0])
    assert log.signer.set_back(1)
    assert whole(log).valid
    log.execute(start())
    log.seal()
    everything = whole(log)
    assert (everything.findings, everything.seal and everything.seal.number) == ([], 3)
