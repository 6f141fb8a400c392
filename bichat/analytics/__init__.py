"""The business database: what it holds, and queries that can only read it."""

from bichat.analytics.database import Analytics, Column, Result, Table

__all__ = ["Analytics", "Column", "Result", "Table"]
