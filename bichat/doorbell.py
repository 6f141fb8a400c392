"""The doorbell: wakes whoever follows the log or a read model, through Redis; followers poll as well.

What is rung may be lost, so it carries nothing that cannot be read elsewhere.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping
from uuid import UUID, uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bichat import unsaid

LOG, REPLIES, PROMPTS = "bichat:log", "bichat:replies", "bichat:prompts"
NEWS_KEPT = 60
"""Seconds for which it is known that what is older than a version is no news: longer than any read takes."""
_LONGEST_WAIT = 2.0
"""Seconds between two tries to reach Redis, at most."""

log = logging.getLogger(__name__)


class Ear:
    """One follower's: rung means that there may be something new since it last listened."""

    def __init__(self) -> None:
        self._rung, self._over = threading.Event(), False

    def wait(self, timeout: float) -> bool:
        """Whether it rang within `timeout` seconds, or since the last wait."""
        rung = self._rung.wait(timeout)
        self._rung.clear()
        if self._over:
            self._rung.set()
        return rung

    def ring(self) -> None:
        """Ends the wait, this one or the next."""
        self._rung.set()

    def end(self) -> None:
        """Ends every wait, this one and all to come: who listened is to stop."""
        self._over = True
        self._rung.set()


class Doorbell:
    """Rings and listens from threads of its own: no method blocks but `close`, none raises."""

    def __init__(self, redis_url: str, *, hot: bool = True) -> None:
        """`hot`: answers about dialogues are kept, and are to go when these change."""
        self._hot = hot
        self._outdated: dict[UUID, int] = {}
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=2.0, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0)
        )
        self._own = f"bichat:doorbell:{uuid4()}"
        self._pending: dict[str, str] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._ears: list[Ear] = []
        self._threads: list[threading.Thread] = []
        self._reachable = True

    def ring(self, position: int) -> None:
        """Tells followers that the log has grown to `position`."""
        self._say({LOG: str(position)})

    def projected(self, versions: Mapping[UUID, int]) -> None:
        """Tells who follows these dialogues that their transcripts have reached these versions."""
        if self._hot:
            with self._changed:
                self._outdated.update(versions)
        self._say(
            {f"bichat:dialogue:{i}": json.dumps({"t": "projected", "v": v}) for i, v in versions.items()}
        )

    def replies(self) -> None:
        """Tells workers that the queue has changed."""
        self._say({REPLIES: "{}"})

    def prompts(self) -> None:
        """Tells workers that some prompt has changed."""
        self._say({PROMPTS: "{}"})

    def ear(self) -> Ear:
        """One more follower of the log, rung at once: something may have happened before it came."""
        ear = Ear()
        with self._changed:
            self._ears.append(ear)
            self._start("doorbell-ear", self._listen)
        ear.ring()
        return ear

    def close(self) -> None:
        """Says what is still to be said if Redis answers, and stops."""
        if self._ears and self._reachable:
            self._say({self._own: "closing"})  # who listens need not wait for the end of a turn
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._wake()
        for thread in self._threads:
            thread.join(timeout=3.0)
        self._redis.close()

    def _start(self, name: str, target: object) -> None:
        if not any(thread.name == name for thread in self._threads):
            thread = threading.Thread(target=target, name=name, daemon=True)  # type: ignore[arg-type]
            self._threads.append(thread)
            thread.start()

    def _say(self, messages: Mapping[str, str]) -> None:
        if not messages or self._closed.is_set():
            return
        with self._changed:
            # Coalesced: of a channel only the newest waits, however slow Redis is.
            self._pending.update(messages)
            self._start("doorbell-voice", self._speak)
            self._changed.notify_all()

    def _speak(self) -> None:
        while not (self._closed.is_set() and not self._pending):
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed.is_set())
                messages, self._pending = self._pending, {}
                outdated, self._outdated = self._outdated, {}
            if messages:
                self._publish(messages.items(), outdated)

    def _publish(self, messages: Iterable[tuple[str, str]], outdated: Mapping[UUID, int]) -> None:
        try:
            # All or nothing: an old answer must not come in between.
            with self._redis.pipeline(transaction=bool(outdated)) as pipe:
                for dialogue_id, version in outdated.items():  # before anybody is told to look
                    key = unsaid.hot(dialogue_id)
                    pipe.delete(key)
                    pipe.hset(key, "version", str(version))
                    pipe.expire(key, NEWS_KEPT)
                for channel, message in messages:
                    pipe.publish(channel, message)
                pipe.execute()
            self._note(None)
        except (redis.RedisError, OSError) as error:
            self._note(error)
            self._closed.wait(0.2)  # a dead Redis is not asked for every commit

    def _listen(self) -> None:
        wait = 0.05
        while not self._closed.is_set():
            try:
                with self._redis.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(LOG, self._own)
                    while not self._closed.is_set():
                        # Subscribing rings too: what was said before is not heard.
                        if pubsub.get_message(timeout=0.5):
                            self._wake()
                            wait = 0.05
            except (redis.RedisError, OSError, ValueError) as error:
                if not self._closed.is_set():
                    self._note(error)
            self._closed.wait(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    def _wake(self) -> None:
        for ear in tuple(self._ears):
            ear.ring()

    def _note(self, error: Exception | None) -> None:
        """One line when Redis goes away, one when it is back."""
        if error and self._reachable:
            log.warning("Redis does not answer, so followers poll: %s", error)
        elif not error and not self._reachable:
            log.warning("Redis answers again")
        self._reachable = error is None
