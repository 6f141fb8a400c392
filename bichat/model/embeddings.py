"""Texts as vectors, by a model: what every provider of them does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

Vector = tuple[float, ...]
"""Of length 1: the nearer two texts are in meaning, the greater is the product of their vectors."""

MOST = 16_000
"""Dimensions; Postgres' vectors have no more."""
BATCH = 64
"""Texts in one call."""


class Embedder(Protocol):
    """A model that makes vectors of texts; vectors of different models cannot be compared."""

    @property
    def name(self) -> str:
        """The model's, the same for as long as its vectors are."""

    @property
    def elsewhere(self) -> bool:
        """Whether a server has it, which can be away; one in this process is slow at worst."""

    async def embed(self, texts: Sequence[str], *, asked: bool = False) -> list[Vector]:
        """A vector for each text, in order; raises `ModelError`.

        What a model does not take of a long text is left out. `asked`: they are what somebody looks
        for, and not what is to be found; some models want to know.
        """

    async def close(self) -> None:
        """Lets go of what it holds."""


def unit(numbers: Sequence[float]) -> Vector | None:
    """The vector in this direction; None when there is no such thing."""
    length = math.hypot(*numbers)  # which overflows only where the result would
    if not 0 < length < math.inf:
        return None
    return tuple([number / length for number in numbers])
