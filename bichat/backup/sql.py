"""The statements in the `.sql` files beside this."""

from __future__ import annotations

from bichat.projections import sql


def statement(file: str, block: str) -> bytes:
    """A block as it stands."""
    return sql.statement(file, block, __package__ or "")


def filled(file: str, block: str, **names: str) -> bytes:
    """A block with names of ours filled in: of tables and columns."""
    return sql.blocks(file, __package__ or "")[block].format(**names).encode()
