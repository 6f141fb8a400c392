"""Looks at a query before the business database sees it: one SELECT, of its own tables, of known functions.

This is the second guard. The first is the role that queries run as: what it may not read or write, no
query can, however it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

from bichat.analytics.allowed import FUNCTIONS, SYNTAX
from bichat.analytics.growth import too_large
from bichat.analytics.names import qualified
from bichat.errors.functions import QueryRefused

LONGEST = 10_000
"""Characters; the parser's time and depth grow with them."""
MOST_STEPS = 20
"""Of the parser for each word; one is common, but where it has to guess it goes over the rest twice."""

_WRITES = (
    exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Command, exp.Copy,
    exp.Set, exp.Grant, exp.TruncateTable,
)  # fmt: skip
_STRANGE: dict[type[exp.Expr], str] = {
    exp.Into: "INTO would make a table",
    exp.Lock: "FOR UPDATE and the like lock rows",
    exp.Parameter: "there are no parameters",
    exp.Placeholder: "there are no parameters",
    exp.Operator: "operators are written as such",
    exp.ObjectIdentifier: "types such as regclass are the database's own",
    # Where parsers could differ on what is text and what is not:
    exp.RawString: "texts stand in single quotes, not in dollars",
    exp.ByteString: "texts stand in plain single quotes, without E or B",
    exp.UnicodeString: "texts stand in plain single quotes, without U&",
}
_BEGINNINGS = {
    TokenType.SELECT, TokenType.WITH, TokenType.VALUES, TokenType.TABLE, TokenType.L_PAREN,
}  # fmt: skip


_DIALECT = Postgres()


class _Parser(PostgresParser):
    """Gives up when it goes back again and again: there are short texts over which it would take hours."""

    def __init__(self, words: int) -> None:
        super().__init__(dialect=_DIALECT)
        self._left = MOST_STEPS * (words + 10)

    def _advance(self, times: int = 1) -> None:
        self._left -= 1
        if self._left < 0:
            raise QueryRefused(reason="it takes too long to understand; write it more simply")
        super()._advance(times)


class Checked(Struct, frozen=True):
    """A query without a semicolon at its end, and the names after dots in it, for the server to judge."""

    sql: str
    qualified: frozenset[str]


def checked(sql: str) -> Checked:
    """The query, as far as it can be judged without the server; raises `QueryRefused`."""
    if len(sql) > LONGEST or "\x00" in sql:
        raise QueryRefused(reason=f"it is longer than {LONGEST} characters")
    try:
        tokens = _DIALECT.tokenize(sql)
        sql = _one(sql, tokens)
        names = qualified(tokens)
        (query,) = _Parser(len(tokens)).parse(tokens, sql)
    except (SqlglotError, LookupError, ValueError, RecursionError) as error:
        told = str(error).splitlines()[0] if isinstance(error, SqlglotError) else "it is nested too deeply"
        raise QueryRefused(reason=f"it cannot be understood ({told[:200]})") from None
    if not isinstance(query, exp.Query | exp.Values):
        raise QueryRefused(reason="only SELECT is allowed")
    for node in query.walk():
        for reason in _objections(node, sql):
            raise QueryRefused(reason=reason)
    return Checked(sql, names)


def _one(sql: str, tokens: list[Token]) -> str:
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        sql = sql[: tokens.pop().start]
    if any(token.token_type == TokenType.SEMICOLON for token in tokens):
        raise QueryRefused(reason="only one statement is allowed")
    if not tokens:
        raise QueryRefused(reason="it is empty")
    if tokens[0].token_type not in _BEGINNINGS:  # what the parser does not know, it would write to a log
        raise QueryRefused(reason="only SELECT is allowed; nothing can be changed")
    return sql


def _objections(node: exp.Expr, sql: str) -> Iterator[str]:
    if isinstance(node, _WRITES):
        yield "only SELECT is allowed; nothing can be changed"
    if type(node) in _STRANGE:
        yield _STRANGE[type(node)]
    if isinstance(node, exp.Table):
        yield from _of_table(node)
    if isinstance(node, exp.Dot) and not isinstance(node.parent, exp.DataType):
        yield "a dot stands only between the names of schemas, tables and columns"
    if isinstance(node, exp.Func):
        yield from _of_function(node, sql)
    yield from too_large(node)


def _of_table(table: exp.Table) -> Iterator[str]:
    name, schema = table.name.lower(), table.db.lower()
    if table.catalog:
        yield "tables of other databases cannot be read"
    if schema.startswith(("pg_", "information_schema")) or (not schema and name.startswith("pg_")):
        yield "the database's own tables cannot be read; use list_tables and describe_table"


def _of_function(function: exp.Func, sql: str) -> Iterator[str]:
    start, end = function.meta.get("start"), function.meta.get("end")
    if start is None or end is None:
        if not isinstance(function, SYNTAX):
            yield f"{function.sql_name()} is not allowed"
        return
    name = sql[start : end + 1].strip('"').lower()
    if name not in FUNCTIONS:
        yield f"the function {name[:40]} is not allowed"
