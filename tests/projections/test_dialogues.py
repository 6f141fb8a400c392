"""The list of dialogues: in order, no row twice or missed, counted and searched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from uuid import UUID

import pytest
from msgspec.structs import replace

from bichat.errors import Invalid
from bichat.events.envelope import Event
from bichat.projections import cursor, dialogues
from bichat.projections.reads import Reads
from tests.examples import NOON, TENANT
from tests.projections.histories import history, transcribed
from tests.projections.test_runner import filled

pytestmark = pytest.mark.anyio
ASK, START, ANSWER, RENAME, DELETE = 0, 3, 6, 13, 14


MANY = [(2 * n, ASK, 0) for n in range(25)] + [(2 * n, RENAME, n) for n in (3, 9, 4)]


def of_one_user(log: Sequence[Event]) -> list[Event]:
    return [
        replace(e, fact=replace(e.fact, user_id="anna")) if hasattr(e.fact, "user_id") else e for e in log
    ]


@pytest.mark.parametrize("limit", [1, 4, 25, 30])
async def test_the_list_neither_skips_nor_repeats(database_url: str, reads: Reads, limit: int) -> None:
    # All at one moment: the id decides, and the cursor must know.
    log = [replace(e, at=NOON) if e.position % 2 else e for e in of_one_user(history(MANY))]
    filled(database_url, log)
    expected = sorted(transcribed(log).values(), key=lambda d: (d.updated_at, d.id), reverse=True)
    told: list[dialogues.Listed] = []
    after = None
    async with reads.tenant(TENANT) as connection:
        while True:
            page = await dialogues.page(connection, TENANT, "anna", limit=limit, after=after)
            assert page.total == 25
            told += page.data
            after = page.next
            if after is None:
                break
        assert [d.id for d in told] == [d.id for d in expected]
        again = await dialogues.page(connection, TENANT, "anna", limit=5, offset=7)
        assert list(again.data) == told[7:12]


async def test_the_list_knows_states_totals_and_the_newest_question(database_url: str, reads: Reads) -> None:
    log = of_one_user(history([*MANY, (2, START, 0), (2, ANSWER, 0), (4, DELETE, 0), (6, DELETE, 2)]))
    filled(database_url, log)
    async with reads.tenant(TENANT) as connection:
        pages = {
            state: await dialogues.page(connection, TENANT, "anna", state=state)
            for state in ("active", "archived", "deleted")
        }
        assert {state: page.total for state, page in pages.items()} == {
            "active": 23, "archived": 1, "deleted": 1,
        }  # fmt: skip
        assert pages["archived"].data[0].id == UUID(int=7)
        answered = pages["active"].data[0]
        assert (answered.id, answered.status, answered.message_count) == (UUID(int=3), "answered", 2)
        assert answered.last_message
        assert answered.last_message.content == "Yes."
        assert (await dialogues.page(connection, TENANT, "nobody")).total == 0


@pytest.mark.parametrize(
    ("q", "found"),
    [("label 3", {7}), ("LABEL", {7, 9, 19}), ("First", set(range(1, 50, 2))), ("%", set()), ("_", set()),
     ("\\", set()), ("\x00", set(range(1, 50, 2)))],
)  # fmt: skip
async def test_a_search_looks_in_labels_and_last_messages(
    database_url: str, reads: Reads, q: str, found: set[int]
) -> None:
    log = of_one_user(history(MANY))
    filled(database_url, log)
    async with reads.tenant(TENANT) as connection:
        page = await dialogues.page(connection, TENANT, "anna", q=q, limit=100)
    assert {listed.id.int for listed in page.data} == found
    assert page.total is None


@pytest.mark.parametrize(
    "after",
    ["x", "!", "ü", "a" * 500, base64.urlsafe_b64encode(b"\x93").decode(), cursor.write((1, 2)), "AAAA="],
)
async def test_a_word_that_is_no_cursor_is_refused_by_name(reads: Reads, after: str) -> None:
    async with reads.tenant(TENANT) as connection:
        with pytest.raises(Invalid, match=r"^after: "):
            await dialogues.page(connection, TENANT, "anna", after=after)
