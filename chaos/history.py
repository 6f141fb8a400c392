"""What happened, in order: who did what and what they were told: to read a failure, and run it again."""

from __future__ import annotations

import threading
import time
from typing import Any

from msgspec import Struct


class Entry(Struct, frozen=True):
    """One thing that happened, so many seconds after the start."""

    at: float
    who: str
    what: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        told = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.at:8.3f}  {self.who:12}  {self.what}  {told}".rstrip()


class History:
    """Grows from any thread."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._started, self._lock = time.monotonic(), threading.Lock()

    def tell(self, who: str, what: str, **facts: Any) -> None:
        """Adds what just happened."""
        entry = Entry(round(time.monotonic() - self._started, 3), who, what, facts)
        with self._lock:
            self.entries.append(entry)
