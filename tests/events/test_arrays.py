"""Arrays reach Postgres as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import psycopg
import pytest

from bichat.events import arrays
from bichat.events.arrays import Array

ONE, TWO = UUID(int=1), UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (arrays.uuids, [ONE, TWO]),
        (arrays.uuids, [None, ONE, None]),
        (arrays.bigints, [0, -1, 2**63 - 1, -(2**63)]),
        (arrays.ints, [0, -1, 2**31 - 1, -(2**31)]),
        (arrays.texts, ["", "NULL", 'a "quoted" {brace}, \\ and Größe 🙂', None]),
        (arrays.byteas, [b"", bytes(range(256)), b"\\x00"]),
        (arrays.byteas, [b"one"] * 300),
    ],
)
def test_what_is_sent_is_what_arrives(
    database_url: str, array: Callable[[Sequence[object]], Array], values: Sequence[object]
) -> None:
    with psycopg.connect(database_url) as connection:
        arrays.teach(connection)
        with connection.cursor(binary=True) as cursor:
            for sent in (values, values[:1], []):
                encoded = array(sent)
                row = cursor.execute("select %b, pg_typeof(%b)::text", (encoded, encoded)).fetchone()
                assert row == (sent, f"{_NAMES[type(encoded).__name__]}[]")


_NAMES = {"Uuids": "uuid", "Bigints": "bigint", "Ints": "integer", "Texts": "text", "Byteas": "bytea"}


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        arrays.ints([2**31])
