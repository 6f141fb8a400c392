"""What Postgres says of a query that failed, as a model can act on it: no addresses, no names of roles."""

from __future__ import annotations

import psycopg
from psycopg import errors

from bichat.errors.functions import BusinessDatabaseUnavailable, QueryFailed, TookTooLong

LONGEST = 500
"""Characters of one message."""
_AWAY = ("08", "28", "3D", "57P", "53300")
"""How the codes begin of what is the connection's fault, not the query's."""


def told(error: psycopg.Error, seconds: float, *, before: int = 0, length: int = 0) -> Exception:
    """`error`, of a query that had `seconds`; it was `length` characters, after `before` of ours.

    What is no fault of the query nor of the server is `error` itself: it is ours.
    """
    if isinstance(error, errors.QueryCanceled):
        return TookTooLong(seconds=f"{seconds:g}")
    said = error.diag
    if said.sqlstate is None and not isinstance(error, psycopg.OperationalError):
        return error
    if said.sqlstate is None or said.sqlstate.startswith(_AWAY):
        return BusinessDatabaseUnavailable()
    facts: dict[str, object] = {"reason": (said.message_primary or type(error).__name__)[:LONGEST]}
    if said.message_hint:
        facts["hint"] = said.message_hint[:LONGEST]
    at = int(said.statement_position or 0) - before
    if 1 <= at <= length:
        facts["position"] = at
    return QueryFailed(**facts)
