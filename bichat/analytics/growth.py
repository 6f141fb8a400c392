"""What a query would make very many or very long of in memory, as far as that can be seen in it.

Postgres bounds what it sorts and hashes, not what it puts together: a text may become a gigabyte, an
array in the making anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

MOST_SERIES = 100_000
"""Rows of one generate_series: all of them are made, whatever is wanted of them."""
WIDEST = 5_000
"""Of char(n) and the like, which are filled up."""

_STEPS = ("hour", "day", "week", "month", "quarter", "year")


def too_large(node: exp.Expr) -> Iterator[str]:
    """Why this would be."""
    if isinstance(node, exp.GenerateSeries) and not _bounded(node):
        yield f"generate_series takes two numbers at most {MOST_SERIES} apart, or steps of hours or more"
    if isinstance(node, exp.DataTypeParam) and not _narrow(node):
        yield f"types have at most {WIDEST} characters or digits"
    if isinstance(node, exp.Array) and any(
        isinstance(part, exp.Query | exp.Values) for part in node.expressions
    ):
        yield "an array is not made of a query; string_agg makes a text of one"


def _narrow(param: exp.DataTypeParam) -> bool:
    written = _plain(param.this).lstrip("-")
    return isinstance(param.this, exp.Var | exp.Column) or (written.isdigit() and int(written) <= WIDEST)


def _bounded(series: exp.Func) -> bool:
    """Whether it is known beforehand to be short."""
    low, high, step = (series.args.get(name) for name in ("start", "end", "step"))
    try:
        first, last = int(_plain(low)), int(_plain(high))
    except ValueError:
        step = step.this if isinstance(step, exp.Cast) else step
        written = step.sql(dialect="postgres").lower() if step else ""
        return isinstance(step, exp.Interval | exp.Literal) and any(unit in written for unit in _STEPS)
    return abs(last - first) <= MOST_SERIES and (step is None or _plain(step).lstrip("-").isdigit())


def _plain(value: object) -> str:
    return value.sql() if isinstance(value, exp.Literal | exp.Neg) else ""
