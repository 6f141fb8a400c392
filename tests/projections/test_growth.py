"""What a read costs does not grow with the dialogue: counted in blocks touched, not in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bichat.projections import dialogues, replies, transcripts
from bichat.projections.read_model import Build
from bichat.projections.runner import connect
from bichat.projections.sql import statement
from tests.examples import DIALOGUE, TENANT

PAGES = 2000
FEW = 80
"""Blocks; the whole dialogue is some thousands."""

FILL = f"""
insert into bichat.transcripts_v2_g1
select '{DIALOGUE}', '{TENANT}', 'anna', 'x', 'active', {PAGES} * 75 + 1, now(), now(), {PAGES} * 50, 0, null;
insert into bichat.transcripts_pages_v2_g1
select '{DIALOGUE}', n, '{TENANT}', (n + 1) * 75 + 1, array[md5(n::text)::uuid],
       jsonb_build_array(jsonb_build_object('content', repeat('a', 500))), false
from generate_series(0, {PAGES} - 1) n;
insert into bichat.transcripts_turns_v2_g1
select '{DIALOGUE}', md5(n::text)::uuid, '{TENANT}', n * 50 + 1, n * 75 + 3, n * 75 + 3, now(), 'answered', 1,
       'm', '', '', '', '{{}}', 0, 0
from generate_series(0, {PAGES} - 1) n;
insert into bichat.dialogues_v1_g1
select md5(n::text)::uuid, '{TENANT}', 'anna', 'x', 'active', 2, now(), now() - n * interval '1 second', 1
from generate_series(1, 20000) n;
insert into bichat.dialogues_counts_v1_g1 values ('{TENANT}', 'anna', 'active', 20000);
insert into bichat.replies_v2_g1
select md5(n::text)::uuid, md5(n::text)::uuid, '{TENANT}', 'anna', 2, n, now(), now(),
       'waiting', n > 19000, n > 19000, 0, 0, false, false, false
from generate_series(1, 20000) n;
insert into bichat.replies_v2_g1
select md5('one' || n)::uuid, '{DIALOGUE}', '{TENANT}', 'anna', n, n, now(), now(),
       'waiting', true, n = 1, 0, 0, false, false, false
from generate_series(1, 20000) n;
insert into bichat.replies_v2_g1
select md5('later' || n)::uuid, md5('later' || n)::uuid, '{TENANT}', 'anna', 2, n, now(), now(),
       'waiting', true, true, 0, 0, false, true, true
from generate_series(1, 20000) n
"""


@pytest.fixture(scope="module")
def long(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(module_database_url) as connection:
        connection.execute(FILL.encode(), prepare=False)
        connection.execute("vacuum analyze")
        yield connection


def blocks(connection: psycopg.Connection[Any], query: bytes, values: dict[str, Any]) -> int:
    """How many blocks the query touches, under the plan that serves any values."""
    connection.execute("set plan_cache_mode = force_generic_plan")
    with connection.transaction(force_rollback=True):
        row = connection.execute(b"explain (analyze, buffers, format json) " + query, values).fetchone()
    assert row
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("block", "values"),
    [
        ("newest", {"limit": 50}),
        ("slice", {"first": 0, "last": 1}),
        ("slice", {"first": 1000, "last": 1001}),
        ("changes", {"since": PAGES * 75 - 1, "pages": 4}),
        ("changes", {"since": 0, "pages": 4}),
        ("reply", {"message_id": "cfcd2084-95d5-65ef-66e7-dff9f98764da", "since": 0}),  # of page 0
    ],
)
def test_reading_a_long_dialogue_touches_few_blocks(
    long: psycopg.Connection[Any], block: str, values: dict[str, Any]
) -> None:
    whose = {"tenant_id": TENANT, "dialogue_id": DIALOGUE, "user_id": "anna"}
    long.execute("set role bichat_reader")
    try:
        long.execute(statement("reads", "bind"), (str(TENANT),))
        assert blocks(long, transcripts.MODEL.sql(block), whose | values) < FEW
    finally:
        long.execute("reset role")


@pytest.mark.parametrize("before", ["infinity", "now"])
def test_a_page_of_a_long_list_touches_few_blocks(long: psycopg.Connection[Any], before: str) -> None:
    values = {
        "tenant_id": TENANT, "user_id": "anna", "state": "active", "limit": 21, "offset": 0,
        "before": before, "before_id": DIALOGUE,
    }  # fmt: skip
    assert blocks(long, dialogues.MODEL.sql("page"), values) < FEW


@pytest.mark.parametrize("most", [None, 8])
@pytest.mark.parametrize("later", [False, True])
def test_a_claim_from_long_queues_touches_few_blocks(
    long: psycopg.Connection[Any], later: bool, most: int | None
) -> None:
    """A thousand dialogues wait, 20,000 wait for the night, and so do 20,000 questions in one dialogue."""
    values = {"holder": "w", "limit": 4, "seconds": 15, "later": later, "most": most}
    assert blocks(long, replies.MODEL.sql("claim"), values) < 2 * FEW


def test_what_of_a_long_dialogue_comes_next_is_found_in_few_blocks(long: psycopg.Connection[Any]) -> None:
    """One in which 20,000 questions wait."""
    arrange = Build(replies.MODEL, 1).sql("arrange")
    assert blocks(long, arrange, {"dialogues": [DIALOGUE]}) < FEW
