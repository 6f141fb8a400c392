"""Builds everything from a `Config`: the only place where parts are put together."""

from bichat.wiring.operating import (
    database,
    fill,
    key_store,
    migrate,
    missing,
    restore,
    restore_keys,
    writer,
)
from bichat.wiring.parts import run_api, run_projector, run_worker

__all__ = [
    "database",
    "fill",
    "key_store",
    "migrate",
    "missing",
    "restore",
    "restore_keys",
    "run_api",
    "run_projector",
    "run_worker",
    "writer",
]
