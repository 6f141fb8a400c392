"""The reply worker: claims questions, answers several at a time, and hands back what it cannot finish."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from bichat import logs, metrics
from bichat.commands.execute import Executor
from bichat.config import DEFAULT_MODEL, Config
from bichat.deltas import Deltas
from bichat.errors import Unavailable
from bichat.errors.model import WorkerStopped
from bichat.events.ledger import Ledger
from bichat.limits import Limits
from bichat.model import Model
from bichat.projections import replies
from bichat.tokens import count
from bichat.workers import parked
from bichat.workers.attempts import LONGEST_WAIT
from bichat.workers.calling import NotWanted
from bichat.workers.kit import Kit
from bichat.workers.labels import Labels
from bichat.workers.life import LOOKED, Life
from bichat.workers.places import Places
from bichat.workers.prompts import Prompts
from bichat.workers.toolbox import Toolbox
from bichat.workers.turn import Turn

LEASE, RENEWED = 15.0, 5.0
"""Seconds that a claim lasts without a sign of life, and between two such signs."""

POLL = 0.25
"""Seconds between two looks at the queue when nobody rings."""

GRACE, CLEANUP = 2.5, 3.0
"""Seconds that a stopping worker lets replies end by themselves, and then for handing them back."""

LONGEST_PAUSE = 5.0
"""Seconds between two tries to reach the database."""

log = logging.getLogger(__name__)


class ReplyWorker:
    """Answers up to `concurrency` questions at a time; any number of workers share the queue."""

    def __init__(
        self, config: Config, ledger: Ledger, executor: Executor, model: Model, deltas: Deltas,
        *, toolbox: Toolbox | None = None, concurrency: int = 8,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Opens nothing yet; what is asked for the quiet hours, by `clock`, is beside `concurrency`."""
        names = (config.bichat_model or DEFAULT_MODEL, config.bichat_fallback_model)
        self._kit = Kit(
            executor=executor, ledger=ledger, model=model, deltas=deltas, toolbox=toolbox or Toolbox(()),
            prompts=Prompts(ledger),
            models=tuple(name for name in names if name),
            budget=config.context_tokens,
            limits=Limits(config),
            quiet=lambda: config.bichat_off_peak.open_at(clock()),
        )  # fmt: skip
        metrics.configured(self._kit.models)
        self._auto_label = config.bichat_auto_label
        # Leases are held under this name, so it must be this worker's alone.
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._most = config.bichat_model_concurrency
        self._concurrency, self._off_peak = concurrency, config.bichat_off_peak_concurrency
        self._pool = AsyncConnectionPool(
            config.database_url or "", min_size=1, max_size=3, open=False, timeout=5,
            reconnect_timeout=1,  # then asked for anew: the pool's own waits double, for minutes
            kwargs={"autocommit": True, "application_name": "bichat worker", "connect_timeout": 5},
            configure=_hurry,
        )  # fmt: skip
        self._labels = Labels(self._kit, self._name, Places(self._pool, self._name, self._most, LEASE))
        self._life = Life(config.database_url or "", self._name)
        self._parked = parked.ParkedQuestions(ledger, executor, self._pool, self._name)
        self._turns: dict[UUID, Turn] = {}
        self._running: dict[asyncio.Task[None], bool] = {}
        """And whether it takes one of the places for what was asked for the quiet hours."""
        self._rung = asyncio.Event()
        self._reachable, self._stopping = True, False

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then stops within ten seconds."""
        await self._pool.open(wait=False)
        claiming = asyncio.create_task(self._repeat(self._claim, POLL, self._rung))
        others = [
            asyncio.create_task(self._repeat(self._watch, POLL)),
            asyncio.create_task(self._repeat(self._renew, RENEWED)),
            asyncio.create_task(self._repeat(self._live, LOOKED)),
            asyncio.create_task(self._repeat(self._parked.end, parked.LOOKED)),
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._kit.prompts.listen(self._kit.deltas)),
            asyncio.create_task(
                asyncio.to_thread(count, "")
            ),  # reads the vocabulary, not at the first question
        ]
        try:
            await stop.wait()
        finally:
            self._stopping = True
            self._rung.set()
            await asyncio.wait([claiming], timeout=1)  # not in the middle of a claim
            await self._stop_turns()
            pending = {claiming, *others}
            while pending:  # again: a pool that has a connection to give just then swallows a cancel
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=0.2)
            await self._life.close()
            await self._kit.limits.close()
            await self._pool.close(timeout=1)

    # --- the loops ----------------------------------------------------------------------------------

    async def _claim(self) -> None:
        off_peak = sum(self._running.values())
        free = self._concurrency - len(self._running) + off_peak
        later = self._off_peak - off_peak if self._kit.quiet() else 0
        for places, waits in ((free, False), (later, True)):
            if places > 0:
                async with self._pool.connection() as connection:
                    claims = await replies.claim(
                        connection, self._name, places, LEASE, later=waits, most=self._most
                    )
                for claim in claims:
                    self._begin(claim)

    def _begin(self, claim: replies.Claim) -> None:
        if claim.message_id in self._turns:
            return  # its lease ran out while the database was away, and is ours again
        turn = Turn(self._kit, claim, self._name)
        self._turns[claim.message_id] = turn
        with logs.about(
            tenant_id=claim.tenant_id, dialogue_id=claim.dialogue_id, message_id=claim.message_id
        ):
            task = asyncio.create_task(self._take(turn, claim))
        self._running[task] = claim.off_peak
        task.add_done_callback(self._running.pop)

    async def _live(self) -> None:
        with suppress(psycopg.Error, OSError):  # the other loops say so; this one keeps its pace
            if await self._life.beat():
                await self._renew()  # whoever saw no sign of life has cut these leases short

    async def _renew(self) -> None:
        """By timer, not by words: a model that thinks for a minute is not dead."""
        held = dict(self._turns)
        if held:
            async with self._pool.connection() as connection:
                kept = await replies.renew(connection, self._name, list(held), LEASE)
            for message_id in held.keys() - kept:
                held[message_id].interrupt(WorkerStopped())

    async def _watch(self) -> None:
        """Looks for replies that nobody wants any more."""
        held = dict(self._turns)
        if held:
            async with self._pool.connection() as connection:
                unwanted = await replies.cancel_requested(connection, list(held))
            for message_id in unwanted & held.keys():
                if not await held[message_id].wanted():
                    held[message_id].interrupt(NotWanted())

    async def _listen(self) -> None:
        async with self._kit.deltas.listen("bichat:replies") as follower:
            while True:
                if await follower.next(60):
                    self._rung.set()

    async def _repeat(
        self, work: Callable[[], Awaitable[None]], every: float, wake: asyncio.Event | None = None
    ) -> None:
        """Does `work` again and again; a database that is away makes it wait longer, never end."""
        pause, wake = every, wake or asyncio.Event()
        while not self._stopping or work != self._claim:
            wake.clear()
            try:
                await work()
                self._note(None)
                pause = every
            except (psycopg.Error, Unavailable, OSError) as error:
                self._note(error)
                pause = min(pause * 2, LONGEST_PAUSE)
            except Exception:
                log.exception("the reply worker goes on after an error of its own")
                pause = LONGEST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    # --- one turn -----------------------------------------------------------------------------------

    async def _take(self, turn: Turn, claim: replies.Claim) -> None:
        await self._answer(turn, claim.message_id)
        if self._auto_label:
            await self._labels.give(claim)  # in the same place, so that labels cannot pile up
        self._rung.set()

    async def _answer(self, turn: Turn, message_id: UUID) -> None:
        wait = LONGEST_WAIT
        try:
            wait = await turn.run()
        except Unavailable as error:
            self._note(error)
            wait = POLL
        except Exception:
            log.exception("the reply to %s met an error of the worker's own", message_id)
        finally:
            del self._turns[message_id]
            await self._hand_back(message_id, wait)
            self._rung.set()

    async def _hand_back(self, message_id: UUID, wait: float) -> None:
        try:
            async with self._pool.connection() as connection:
                await replies.hand_back(connection, self._name, message_id, wait)
        except psycopg.Error as error:  # then the lease runs out by itself
            self._note(error)

    async def _stop_turns(self) -> None:
        for turn in self._turns.values():
            turn.give_up()
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE)
        self._labels.stop()
        for turn in self._turns.values():
            turn.interrupt(WorkerStopped())
        if self._running:
            await asyncio.wait(self._running, timeout=CLEANUP)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=1)

    def _note(self, error: Exception | None) -> None:
        """One line when the database goes away, one when it is back."""
        if error and self._reachable:
            log.warning("the reply worker waits for the database: %s", error)
        elif not error and not self._reachable:
            log.warning("the reply worker has its database back")
        self._reachable = error is None


async def _hurry(connection: psycopg.AsyncConnection[object]) -> None:
    """Leases need not outlive a crash of the server: the log decides which attempt counts."""
    await connection.execute("set synchronous_commit = off")
