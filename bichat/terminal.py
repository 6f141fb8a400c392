"""Text that somebody else wrote, on its way to a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Without control characters: nothing that is shown must steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


def line(text: str, longest: int = 200) -> str:
    """In one line, cut if it is long."""
    one = " ".join(printable(text).split())
    return one if len(one) <= longest else f"{one[: longest - 1]}…"
