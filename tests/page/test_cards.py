"""What functions return, as tables where it is one."""

from __future__ import annotations

from typing import Any

import pytest
from uuid_utils.compat import uuid7

from bichat.api.page.cards import Card, card
from bichat.events.transcript import Message
from tests.examples import NOON


def returned(content: str) -> Card:
    about: dict[str, Any] = {"id": uuid7(), "seq": 2, "version": 3, "role": "tool", "at": NOON, "name": "f"}
    call = Message(**about, content="", call_id="1", arguments="{}")
    return card(call, Message(**about, content=content, call_id="1"))


@pytest.mark.parametrize(
    ("content", "columns", "rows", "numeric"),
    [
        (
            '[{"a": 1, "b": "x"}, {"b": null, "c": 1.50}]',
            ["a", "b", "c"],
            [["1", "x", ""], ["", "", "1.50"]],
            "a c",
        ),
        (
            '{"columns": ["n", "id"], "rows": [["1.50", "007"], [-2.10, "8"]]}',
            ["n", "id"],
            [["1.50", "007"], ["-2.10", "8"]],
            "n",
        ),
        ('{"columns": ["yes"], "rows": [[true]]}', ["yes"], [["true"]], ""),
        ('{"columns": ["n"], "rows": []}', ["n"], [], ""),
    ],
)
def test_rows_are_a_table(content: str, columns: list[str], rows: list[list[str]], numeric: str) -> None:
    table = returned(content).table
    assert table
    assert (table.columns, table.shown) == (columns, rows)
    assert [name for name, right in zip(columns, table.numeric, strict=True) if right] == numeric.split()


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[{}]",
        "[1]",
        '[{"a": {"b": 1}}]',
        '[{"a": [1]}]',
        '{"a": 1}',
        '[{"a": "' + "x" * 201 + '"}]',
        "1",
    ],
)
def test_anything_else_is_text(content: str) -> None:
    made = returned(content)
    assert made.table is None
    assert made.text
