"""Loops that run beside the projector, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(name: str, loop: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """Runs `loop`, which ends soon after `stop` is set; what it is at after a second is broken off."""
    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1)
