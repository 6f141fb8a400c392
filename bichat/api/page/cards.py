"""A function that the model called, as a card: what it was asked, and what it returned as text or table."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from bichat.events.transcript import Message

MOST_ROWS = 200
"""Rows of a result that are shown; the model got them all."""
LONGEST = 20_000
"""Characters of a text that are shown."""
LONGEST_CELL = 200
"""Of a list of objects that is shown as a table."""
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
"""As JSON writes them, and exact ones as texts."""


class Table(Struct, frozen=True):
    """What a query found."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool = False

    @property
    def shown(self) -> list[list[str]]:
        """The first rows, as text."""
        return [[_cell(value) for value in row] for row in self.rows[:MOST_ROWS]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are of numbers, to be aligned at their ends."""
        columns = zip(*self.rows, strict=False) if self.rows else ([] for _ in self.columns)
        return [_all_numbers(column) for column in columns]

    @property
    def count(self) -> str:
        """How many rows there are, and how many of them are here."""
        told = f"{len(self.rows):,} row{'' if len(self.rows) == 1 else 's'}"
        told += ", and more that were not read" if self.truncated else ""
        return told + (f", the first {MOST_ROWS} are shown" if len(self.rows) > MOST_ROWS else "")


_Result = msgspec.json.Decoder(Table | list[dict[str, Any]], float_hook=Decimal)
"""A query's, or a list of objects; decimals stay as they are written."""


class Card(Struct, frozen=True, kw_only=True):
    """A call with what it returned, if it has."""

    id: str
    name: str | None
    asked: str | None
    """Its arguments, None once erased."""
    returned: bool
    failed: bool
    table: Table | None
    text: str | None
    """What it returned if that is no table, None once erased."""

    @property
    def told(self) -> str:
        """How it went, in a word."""
        if not self.returned:
            return "is running"
        if self.failed:
            return "failed"
        return self.table.count if self.table else "done"


def card(call: Message, returned: Message | None) -> Card:
    """The card of a call."""
    content = returned.content if returned else ""
    table = _table(content) if returned and content and not returned.failed else None
    return Card(
        id=call.call_id,
        name=call.name,
        asked=_asked(call.arguments) if call.arguments is not None else None,
        returned=returned is not None,
        failed=returned is not None and returned.failed,
        table=table,
        text=content if content is None or table else _pretty(content),
    )


def _table(content: str) -> Table | None:
    try:
        found = _Result.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if isinstance(found, list):
        found = _of_objects(found)
    return found if found.columns and all(len(row) == len(found.columns) for row in found.rows) else None


def _of_objects(found: list[dict[str, Any]]) -> Table:
    """A list of flat objects: a column for each name that any has; nothing nested nor long fits in a cell."""
    values = [value for one in found for value in one.values()]
    if any(isinstance(value, (dict, list)) or len(str(value)) > LONGEST_CELL for value in values):
        return Table([], [])
    columns = list(dict.fromkeys(name for one in found for name in one))
    return Table(columns, [[one.get(name) for name in columns] for one in found])


def _asked(arguments: str) -> str:
    """A query alone is shown as it would be written; anything else as JSON."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        return _shown(arguments)
    match given:
        case {**one} if len(one) == 1 and isinstance(only := next(iter(one.values())), str):
            return _shown(only)
    return _pretty(arguments)


def _pretty(text: str) -> str:
    try:
        value = json.loads(text)
        if isinstance(value, dict) and list(value) == ["error"]:
            value = value["error"]
        return _shown(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return _shown(text)


def _shown(text: str) -> str:
    """As much as a page shows, all of which UTF-8 can say: half a character in a JSON escape it cannot."""
    return text[:LONGEST].encode(errors="replace").decode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return (
            str(value)
            if isinstance(value, (str, Decimal))
            else json.dumps(value, ensure_ascii=False, default=str)
        )
    except RecursionError:
        return "…"


def _all_numbers(column: Any) -> bool:
    told = [value for value in column if value is not None]
    return bool(told) and all(_NUMBER.fullmatch(_cell(value)) for value in told)
