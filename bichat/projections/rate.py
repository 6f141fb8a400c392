"""How many events a runner gets through."""

from __future__ import annotations

import math
import time


class Rate:
    """Events a second, of late."""

    OVER = 3.0
    """Seconds; what is longer ago hardly counts."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, time.monotonic()

    def after(self, events: int) -> float:
        """The rate now that there are so many more."""
        now = time.monotonic()
        elapsed, self._at = max(now - self._at, 1e-3), now
        kept = math.exp(-elapsed / self.OVER)
        self._rate = self._rate * kept + events / elapsed * (1 - kept)
        return self._rate
