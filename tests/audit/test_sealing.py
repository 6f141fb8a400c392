"""Sealing: nothing is skipped, whoever else seals or writes, and whatever ends in the middle."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from psycopg.pq import TransactionStatus

from bichat.audit import checking
from bichat.errors.unusable import WrongSetting
from bichat.events import schema
from bichat.events.proof import merkle, sealing, seals
from bichat.events.proof.seals import Seal
from bichat.events.proof.signing import Signer, public_key, written
from bichat.projections.processes import Database, Pool
from bichat.workers import sealing as loop
from tests.audit.sealed import Log
from tests.examples import MASTER_KEY, by, opened, start, writing


@pytest.fixture
def log(database_url: str) -> Iterator[Log]:
    with opened(database_url) as ledger:
        yield Log(database_url, ledger)


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def everything(log: Log) -> list[Seal]:
    with schema.connect(log.url) as connection, connection.transaction():
        return [stored.seal for stored in seals.read(connection)]


def covered(log: Log) -> tuple[int, int]:
    """Events, and how many are under the seals."""
    with psycopg.connect(log.url) as connection:
        row = connection.execute(
            "select (select count(*) from bichat.stored_events), (select sum(version) from"
            " (select distinct on (stream_id) version from bichat.seal_leaves"
            " order by stream_id, version desc) newest)"
        ).fetchone()
    assert row
    return row[0], int(row[1] or 0)


def test_a_log_without_news_is_not_sealed(log: Log) -> None:
    with schema.connect(log.url) as connection:
        assert sealing.seal(connection, log.signer) is None
        log.execute(start())
        assert sealing.seal(connection, log.signer)
        assert sealing.seal(connection, log.signer) is None


def test_a_long_log_gets_several_seals_that_name_each_other(log: Log) -> None:
    log.execute(*(start() for _ in range(6)))
    with schema.connect(log.url) as connection:
        while sealing.seal(connection, log.signer, most=5):
            pass
    made = everything(log)
    assert [(s.number, s.events) for s in made] == [(1, 5), (2, 5), (3, 2)]
    assert [b.previous for b in made] == [bytes(32), made[0].hash, made[1].hash]
    anchor = log.signer.remembered().anchor
    assert anchor
    assert (anchor.number, anchor.hash) == (3, made[2].hash)
    assert covered(log) == (12, 12)


def test_sealers_beside_each_other_while_others_write_skip_nothing(log: Log) -> None:
    done = threading.Event()

    def seal() -> None:
        with schema.connect(log.url) as connection:
            while not done.is_set():
                sealing.seal(connection, log.signer, most=7)

    def write() -> None:
        with opened(log.url) as ledger, writing(ledger) as executor:

            async def all_of_them() -> None:
                await asyncio.gather(*(executor.execute(start(), by()) for _ in range(60)))

            asyncio.run(all_of_them())

    with ThreadPoolExecutor(4) as pool:
        sealers, writers = [pool.submit(seal) for _ in range(2)], [pool.submit(write) for _ in range(2)]
        for one in writers:
            one.result()
        done.set()
        for one in sealers:
            one.result()
    with schema.connect(log.url) as connection:
        list(sealing.seal_all(connection, log.signer))
    made = everything(log)
    assert [s.number for s in made] == [*range(1, len(made) + 1)]
    assert all(b.previous == a.hash and b.position > a.position for a, b in pairwise(made))
    assert sum(s.events for s in made) == 240
    assert covered(log) == (240, 240)


def test_a_sealer_that_ended_before_the_anchor_is_made_up_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.execute(start())

    def killed(self: Signer, seal: Seal) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, schema.connect(log.url) as connection:
        patched.setattr(Signer, "anchor", killed)
        with suppress(KeyboardInterrupt):
            sealing.seal(connection, log.signer)
    assert log.signer.remembered().anchor is None
    with schema.connect(log.url) as connection:
        assert sealing.seal(connection, log.signer) is None
    anchor = log.signer.remembered().anchor
    assert anchor
    assert anchor.number == 1


def test_the_loop_seals_and_outlives_what_goes_wrong(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    caplog.set_level("INFO")
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute("alter table bichat.seals rename to away")
        thread = threading.Thread(target=loop.run, args=(log.url, log.signer, stop, 0.05))
        thread.start()
        log.execute(start())
        until(lambda: "The log was not sealed" in caplog.text)
        connection.execute("alter table bichat.away rename to seals")
    until(lambda: "Sealed 2 events: seal 1, root " in caplog.text)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_seal_with_another_position_is_told_once_and_does_not_end_sealing(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.execute(start())
    log.seal()
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute("update bichat.seals set position = 1000000")
    for _ in range(3):
        log.execute(start())
        log.seal()
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1
    assert told[0] == "Seal 1 was changed: `bichat audit verify` says more"
    assert [one.number for one in everything(log)] == [1, 2, 3, 4]
    assert covered(log) == (8, 8)
    database = Database(url=log.url, keys_url=log.url, master_key=MASTER_KEY)
    found = checking.verify(database, Pool(database, 0), lambda step, done, total: None)
    assert [(one.seal, one.what) for one in found.findings] == [(1, "seal changed")]


def test_the_key_is_not_asked_for_while_the_log_is_held(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.execute(start())
    asked: list[TransactionStatus] = []
    with schema.connect(log.url) as connection:
        real = Signer.key

        def key(self: Signer) -> Ed25519PrivateKey:
            asked.append(connection.info.transaction_status)
            return real(self)

        monkeypatch.setattr(Signer, "key", key)
        assert sealing.seal(connection, log.signer)
    assert asked == [TransactionStatus.IDLE]


def test_what_is_signed_is_read_in_one_way_only(log: Log) -> None:
    log.execute(start())
    log.seal()
    [one] = everything(log)
    other = replace(one, root=one.root + one.previous[:1], previous=one.previous[1:])
    assert other.signed() == one.signed()
    assert one.is_signed([one.public_key])
    assert not other.is_signed([one.public_key])


def test_the_key_is_made_once_and_kept_wrapped_or_given(log: Log) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = {key.private_bytes_raw() for key in pool.map(lambda _: log.signer.key(), range(4))}
    assert len(made) == 1
    with psycopg.connect(log.url) as connection:
        row = connection.execute("select wrapped from bichat_keys.signing_keys").fetchone()
    assert row
    assert made.pop() not in row[0]
    mine = Ed25519PrivateKey.generate()
    signer = Signer(log.ledger.keys, mine.private_bytes_raw())
    assert signer.key().private_bytes_raw() == mine.private_bytes_raw()
    assert len(log.signer.remembered().public_keys) == 2
    log.execute(start())
    with schema.connect(log.url) as connection:
        made_by = sealing.seal(connection, signer)
    assert made_by
    assert made_by.public_key == mine.public_key().public_bytes_raw()
    assert made_by.is_signed([made_by.public_key])


def test_a_public_key_is_taken_in_every_form(tmp_path: object) -> None:
    from pathlib import Path

    key = Ed25519PrivateKey.generate().public_key()
    raw, pem = key.public_bytes_raw(), key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file = Path(str(tmp_path)) / "key.pub"
    for text in (written(raw), f" {written(raw)}\n", pem.decode()):
        file.write_text(text)
        assert public_key(text) == public_key(str(file)) == raw
    for wrong in ("", "x", base64.b64encode(bytes(31)).decode(), "/nowhere", "-----BEGIN X-----", "ä" * 44):
        with pytest.raises(WrongSetting, match="--key: must be an Ed25519 public key"):
            public_key(wrong)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40), st.data())
def test_a_path_leads_from_its_leaf_to_the_root_and_from_nothing_else(
    texts: list[bytes], data: st.DataObject
) -> None:
    leaves = [merkle.leaf(text) for text in texts]
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = merkle.root(leaves), merkle.path(leaves, index)
    assert merkle.climb(leaves[index], index, len(leaves), path) == root
    assert merkle.climb(merkle.leaf(b"other"), index, len(leaves), path) != root
    assert merkle.climb(leaves[index], index, len(leaves), [*path, bytes(32)]) is None
    assert merkle.climb(leaves[index], len(leaves), len(leaves), path) is None
    if path:
        assert merkle.climb(leaves[index], index, len(leaves), path[:-1]) is None


def test_the_tree_is_that_of_rfc_6962() -> None:
    """The test vectors of Certificate Transparency."""
    texts = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    leaves = [merkle.leaf(bytes.fromhex(text)) for text in texts]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {n: merkle.root(leaves[:n]).hex() for n in roots} == roots
