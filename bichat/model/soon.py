"""The vector of what somebody looks for: within seconds or not at all, for there are words to go by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bichat.errors.model import ModelSilent, ModelUnavailable
from bichat.model.embeddings import Embedder, Vector

PATIENCE = 4.0
"""Seconds that somebody waits for it."""
AWAY = 30.0
"""Seconds in which a server that did not answer is left alone; then one search tries it again."""


class Soon:
    """Asks embedders on behalf of people who wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._away_until: float | None = None

    async def embed(self, embedder: Embedder, text: str) -> Vector:
        """Raises `ModelError`; while the model is away, at once."""
        if not embedder.elsewhere:
            return await _patiently(embedder, text)
        if self._away_until is not None:
            if self._clock() < self._away_until:
                raise ModelUnavailable(detail="it did not answer a moment ago")
            self._leave()  # whoever comes meanwhile does not wait as well
        try:
            vector = await _patiently(embedder, text)
        except (ModelSilent, ModelUnavailable):
            self._leave()
            raise
        self._away_until = None
        return vector

    def _leave(self) -> None:
        self._away_until = self._clock() + AWAY


async def _patiently(embedder: Embedder, text: str) -> Vector:
    try:
        async with asyncio.timeout(PATIENCE):
            (vector,) = await embedder.embed([text], asked=True)
    except TimeoutError:
        raise ModelSilent(seconds=f"{PATIENCE:g}") from None
    return vector
