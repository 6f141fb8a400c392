"""Models that take no functions, as was found out lately: they are not offered any for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from eventsourcing.application import LRUCache

KEPT = 600.0
"""Seconds after which a model is offered functions again: its server may have been set up for them."""
MOST = 100
"""Models; people may ask for any name."""

log = logging.getLogger(__name__)


class Refusing:
    """Their names; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: LRUCache[str, float] = LRUCache(MOST)

    def add(self, model: str) -> None:
        """It was offered functions and refused."""
        if model not in self:
            log.warning("The model %s takes no functions: it is offered none for %.0f s", model, KEPT)
            self._until.put(model, self._clock() + KEPT)

    def __contains__(self, model: str) -> bool:
        try:
            return self._clock() < self._until.get(model)
        except KeyError:
            return False
