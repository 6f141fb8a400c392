"""Looks at a query's words before anything makes sense of them: names that Postgres may take for calls.

`x.f` is `f(x)` where `x` has no column `f`, and whether it has is for the server to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sqlglot.tokenizer_core import Token, TokenType

from bichat.errors.functions import QueryRefused

LONGEST = 63
"""Bytes: Postgres cuts what is longer, and it is another name then."""

_OBJECTS = re.compile(
    "_?reg(class|collation|config|database|dictionary|namespace|oper|operator|proc|procedure|role|type)"
)
_TEXTS = (TokenType.STRING, TokenType.NATIONAL_STRING, TokenType.NUMBER)


def qualified(tokens: Sequence[Token]) -> frozenset[str]:
    """What stands after a dot, in lower case; raises `QueryRefused` for what is refused everywhere."""
    for token in tokens:
        if token.token_type not in _TEXTS and _OBJECTS.fullmatch(token.text.lower()):
            raise QueryRefused(reason="types such as regclass are the database's own")
    if any(_escaped(*three) for three in zip(tokens, tokens[1:], tokens[2:], strict=False)):
        raise QueryRefused(reason="names stand in plain double quotes, without U&")
    if any(_grown(*two) for two in pairwise(tokens)):
        raise QueryRefused(reason="numbers are written in digits alone, and a space follows them")
    return frozenset(_after_dots(tokens))


def refuse_calls(names: frozenset[str], callable_: frozenset[str]) -> None:
    """Raises `QueryRefused` when one of `names` could be a call, for it is in `callable_`."""
    for name in sorted(names & callable_):
        reason = f"{name} after a dot may be a call of that function; write the column without its table"
        raise QueryRefused(reason=reason)


def _escaped(first: Token, second: Token, third: Token) -> bool:
    """Whether they are one name that is written with escapes: sqlglot sees `U & "name"`."""
    together = first.end + 1 == second.start and second.end + 1 == third.start
    return together and first.text.lower() == "u" and second.token_type == TokenType.AMP


def _grown(number: Token, word: Token) -> bool:
    """Whether they may be one number to Postgres: sqlglot sees `10_000` as 10, named _000."""
    return (
        number.token_type == TokenType.NUMBER
        and word.start == number.end + 1
        and word.text[:1].isidentifier()
    )


def _after_dots(tokens: Sequence[Token]) -> Iterator[str]:
    for n, token in enumerate(tokens[1:], 1):
        if tokens[n - 1].token_type != TokenType.DOT:
            continue
        name = token.text.lower()
        if n + 1 < len(tokens) and tokens[n + 1].token_type == TokenType.L_PAREN:
            raise QueryRefused(reason="functions and types are named without their schema")
        if name.startswith("pg_") or len(name.encode()) > LONGEST:
            raise QueryRefused(reason=f"{name[:40]} after a dot is not allowed")
        yield name
