"""The clients of a scenario, in a thread of their own; the main thread breaks things meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from uuid import UUID

from bench.stack import Stack
from chaos import script
from chaos.client import Client
from chaos.told import Stream, Told


class Crowd:
    """Twenty people, or fewer, who write and listen until they are told to stop."""

    def __init__(self, stack: Stack, *, seed: int, clients: int, questions: int, pause: float) -> None:
        """`pause`: seconds between two commands of one client, on average."""
        self.url, self.seed, self.pause, self.told = stack.url, seed, pause, Told()
        self._stack, self._clients, self._questions = stack, clients, questions
        self._numbers = itertools.count()
        self._seen: Counter[str] = Counter()
        self.open: dict[UUID, float] = {}
        """Questions that were accepted and have not ended, and when they were."""
        self.accepted_at = 0.0
        """When something was accepted last."""
        self._changed = threading.Condition()
        self._stopping = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def start(self) -> None:
        """Lets them begin."""
        self._thread.start()

    def stop(self, patience: float) -> bool:
        """Has them ask no more; whether all that was asked has ended `patience` seconds later."""
        self._stopping = True
        settled = self.wait_until(lambda: not self.open, patience)
        self._thread.join(5 if settled else 0)
        if self._failed:
            raise self._failed
        return settled and not self._thread.is_alive()

    # --- what clients say, in their thread --------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Nothing more is to be asked."""
        return self._stopping or self._failed is not None

    def number(self) -> int:
        """Of the next question; there are as many as were scripted."""
        number = next(self._numbers)
        if number >= self._questions:
            raise RuntimeError(f"more than {self._questions} questions: script more of them")
        return number

    def saw(self, what: str, message_id: UUID | None = None) -> None:
        """Something that the main thread may wait for has happened."""
        with self._changed:
            self._seen[what] += 1
            if what == "accepted" and message_id:
                self.accepted_at = self.open[message_id] = time.monotonic()
            elif what == "ended" and message_id:
                self.open.pop(message_id, None)
            self._changed.notify_all()

    def failed(self, error: BaseException) -> None:
        """A client could not go on: that is no finding, but a mistake in here."""
        self._failed = self._failed or error
        self.saw("failed")

    def heard(self, stream: Stream) -> None:
        """An event of a stream: is it in the middle of an answer, or was that its last word?"""
        event = stream.events[-1]
        if event.type == "reply.delta" and stream.message_id:
            whole = event.data["text"].rstrip().endswith(".")
            self.saw("whole" if whole else "word")

    # --- what the main thread waits for -----------------------------------------------------------

    def wait_for(self, what: str, times: int, patience: float) -> bool:
        """Whether it happens so many times from now on, within `patience` seconds."""
        upto = self._seen[what] + times
        return self.wait_until(lambda: self._seen[what] >= upto, patience)

    def wait_until(self, holds: Callable[[], bool], patience: float) -> bool:
        """Whether that holds within `patience` seconds; looked at whenever something happens."""
        with self._changed:
            return self._changed.wait_for(lambda: holds() or bool(self._failed), patience) and holds()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self.failed(error)

    async def _live(self) -> None:
        some = [Client(self, n, self._stack.headers(f"user {n}")) for n in range(self._clients)]
        try:
            async with asyncio.TaskGroup() as group:
                for client in some:
                    group.create_task(client.live())
            await asyncio.sleep(1.5)  # followers of dialogues hear the last of it
        finally:
            for client in some:
                await client.leave()


def clients_of(stack: Stack, model_url: str, *, seed: int, short: bool) -> Crowd:
    """Twenty; in the short version they ask less."""
    script.refuse(model_url)
    return Crowd(stack, seed=seed, clients=20, questions=1000 if short else 6000, pause=1.0 if short else 0.7)
