"""SQL in named blocks, and rows on their way into the database."""

from __future__ import annotations

import psycopg
import pytest

from bichat.projections import sql
from bichat.projections.versions import MODELS


@pytest.mark.parametrize("file", [*(model.name for model in MODELS), "versions", "runner", "reads"])
def test_every_block_has_a_statement(file: str) -> None:
    assert sql.blocks(file)
    assert all(block.rstrip().endswith(";") for block in sql.blocks(file).values())


def test_rows_are_written_in_chunks_that_the_server_can_take(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_CHUNK", 100)
    with psycopg.connect(database_url) as connection:
        connection.execute("create temporary table t (n int, text text)")
        insert = b"insert into t select * from jsonb_populate_recordset(null::t, %s)"
        sql.write(connection, insert, ({"n": n, "text": "x" * n} for n in range(150)))
        rows = connection.execute("select n, length(text) from t order by n").fetchall()
    assert rows == [(n, n) for n in range(150)]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\\u0000", "\\u0000"),
        ("\\\x00", "\\\ufffd"),
        ("\\\\u0000\x00\x00", "\\\\u0000\ufffd\ufffd"),
    ],
)
def test_a_nul_in_a_text_does_not_stop_its_readers(database_url: str, given: str, kept: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("create temporary table t (text text)")
        sql.write(
            connection,
            b"insert into t select * from jsonb_populate_recordset(null::t, %s)",
            [{"text": given}],
        )
        assert connection.execute("select text from t").fetchone() == (kept,)
