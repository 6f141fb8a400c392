"""What was made lately for somebody, kept for whoever asks again; of texts only digests are held."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Lately(Generic[T]):
    """The values used last, by a name and a text."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._key = secrets.token_bytes(32)
        self._held: OrderedDict[bytes, T] = OrderedDict()

    def get(self, key: tuple[str, str]) -> T | None:
        """The value, if it is still there."""
        digest = self._digest(key)
        if digest in self._held:
            self._held.move_to_end(digest)
        return self._held.get(digest)

    def put(self, key: tuple[str, str], value: T) -> None:
        """Keeps a value, and lets go of the one that was used longest ago."""
        self._held[self._digest(key)] = value
        if len(self._held) > self._size:
            self._held.popitem(last=False)

    def _digest(self, key: tuple[str, str]) -> bytes:
        name, text = (part.encode(errors="surrogatepass") for part in key)
        return hashlib.blake2b(name + b"\x00" + text, key=self._key, digest_size=16).digest()
