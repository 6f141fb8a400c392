"""Tokens spent, split as asked."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from bichat.projections import usage
from bichat.projections.reads import Reads
from tests.examples import TENANT
from tests.projections.histories import history
from tests.projections.test_runner import filled

pytestmark = pytest.mark.anyio
ASK, START, ANSWER, FAIL = 0, 3, 6, 9


async def test_usage_is_split_as_asked(database_url: str, reads: Reads) -> None:
    turns = [(START, 0), (ANSWER, 0), (ASK, 0), (START, 0), (FAIL, 0)]
    log = history([(d, w, n) for d in (0, 1, 2) for w, n in [(ASK, 0), *turns]])
    filled(database_url, log)
    async with reads.tenant(TENANT) as connection:

        async def used(user: str | None, *by: Any, since: date = date.min) -> list[Any]:
            found = await usage.usage(connection, TENANT, user, since=since, until=date.max, by=by)
            return [(u.day, u.model, u.user_id, u.calls, u.total_tokens) for u in found]

        assert await used("user 0") == [(None, None, None, 2, 34)]
        assert await used(None) == [(None, None, None, 4, 68)]
        assert await used(None, "user") == [
            (None, None, "user 0", 2, 34), (None, None, "user 1", 2, 34),
        ]  # fmt: skip
        assert await used("user 0", "model") == [
            (None, "m-2026", None, 1, 17), (None, "small", None, 1, 17),
        ]  # fmt: skip
        assert await used("user 0", "day", "model", since=date(2030, 1, 1)) == []
