"""What became of one line of the table: what held, what did not."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field


class Verdict(Struct, kw_only=True):
    """Filled while a scenario runs; it holds when something was checked and nothing found broken."""

    id: str
    done: str
    """What is done to bichat, in a line."""
    counts: Counter[str] = field(default_factory=Counter)
    """How much of what was seen: questions acknowledged, kills, answers."""
    broken: list[str] = field(default_factory=list)
    """Every promise that was not kept, with what shows it."""
    checks: int = 0
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every promise was kept; what checked nothing has shown nothing."""
        return not self.broken and self.checks > 0

    def check(self, kept: bool, promise: str) -> None:
        """Counts a check; remembers the promise if it was not kept."""
        self.checks += 1
        if not kept:
            self.broken.append(promise)
