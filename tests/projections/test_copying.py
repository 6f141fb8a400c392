"""What COPY brings into a table is what the same values come to as JSON, or it is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bichat.projections import sql, words
from bichat.projections.copying import copy

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def table(connection: psycopg.Connection[Any], type_: str) -> None:
    connection.execute("drop table if exists t")
    connection.execute(f"create temporary table t (n int, value {type_})".encode())


def found(connection: psycopg.Connection[Any]) -> list[Any]:
    rows = connection.execute("select value::text from t order by n").fetchall()
    return [value for (value,) in rows]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("uuid", [uuid4(), None]),
        ("uuid[]", [[uuid4(), uuid4()], []]),
        ("bigint", [2**63 - 1, -(2**63), 0]),
        ("int", [2**31 - 1, -(2**31), -1]),
        ("boolean", [True, False, None]),
        ("date", [date.min, date.max, NOW.date()]),
        ("timestamptz", [NOW, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]),
        ("text", ["", "\\N", "a\tb\nc\\", "\\.", "Ł\U0001f600", "a\x00b", None]),
        ("jsonb", [{"a": 'b"\\\n\x00'}, [], None, "\\u0000", 1.5]),
    ],
)
def test_values_come_out_as_if_they_had_come_as_json(
    database_url: str, type_: str, values: list[Any]
) -> None:
    rows = [{"n": n, "value": value} for n, value in enumerate(values)]
    with psycopg.connect(database_url) as connection:
        table(connection, type_)
        copy(connection, "t", rows)
        copied = found(connection)
        table(connection, type_)
        sql.write(connection, b"insert into t select * from jsonb_populate_recordset(null::t, %s)", rows)
        assert copied == found(connection)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=20))
@example(["", " ", "a a a b", "été Été ete", "x" * 41 + " " + "x" * 42, "' \\ : *", "\x00"])
def test_words_come_out_as_postgres_reads_them(database_url: str, texts: list[str]) -> None:
    with psycopg.connect(database_url) as connection:
        table(connection, "tsvector")
        copy(connection, "t", [{"n": n, "value": words.kept(text)} for n, text in enumerate(texts)])
        for text, copied in zip(texts, found(connection), strict=True):
            plain = " ".join(words.words(text))
            assert connection.execute("select %s::tsvector::text", (plain,)).fetchone() == (copied,)


@pytest.mark.parametrize(("type_", "value"), [("int", 2**31), ("bigint", 2**63), ("int", -(2**31) - 1)])
def test_a_number_that_does_not_fit_is_refused(database_url: str, type_: str, value: int) -> None:
    with psycopg.connect(database_url) as connection:
        table(connection, type_)
        with pytest.raises(OverflowError):
            copy(connection, "t", [{"n": 1, "value": value}])
