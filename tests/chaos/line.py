"""One line of the table in its short version; a file of its own for each, so that they run side by side."""

from __future__ import annotations

from chaos.__main__ import tried

SEED = 7


def holds(name: str) -> None:
    """Does it and expects every promise kept; what breaks it is done again with the command that it names."""
    verdict = tried(name, SEED, short=True)
    told = "\n".join(verdict.broken)
    assert verdict.held, f"make chaos SEED={SEED} ONLY={name}: {verdict.checks} checks\n{told}"
