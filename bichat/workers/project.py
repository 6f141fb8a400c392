"""The projector: every read model of this code, each followed by a runner in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bichat.doorbell import Doorbell
from bichat.events import schema
from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.projections import versions
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner
from bichat.projections.tail import Tail


def run(database_url: str, feed: Feed, doorbell: Doorbell, stop: threading.Event) -> None:
    """Keeps the read models up to date until `stop` is set; ends within 2 s.

    Raises `EventTooNew` as soon as one runner meets an event that this code does not know.
    """
    tail = Tail(feed, doorbell.ear())
    with schema.connect(database_url) as connection:
        versions.check(connection)
        builds = versions.followed(connection)
    failed: list[BaseException] = []
    runners = [Runner(b, database_url, tail, told(b, doorbell)) for b in builds]

    def follow(runner: Runner) -> None:
        try:
            runner.run()
        except BaseException as error:
            failed.append(error)
            stop.set()

    threads = [threading.Thread(target=follow, args=(r,), name=r.build.id, daemon=True) for r in runners]
    for thread in threads:
        thread.start()
    stop.wait()
    for runner in runners:
        runner.stop()
    for thread in threads:
        thread.join(timeout=2.0)
    if failed:
        raise failed[0]


def told(build: Build, doorbell: Doorbell) -> Callable[[Sequence[Event]], None]:
    """Whom to wake after a commit of `build`."""
    match build.model.name:
        case "transcripts":
            return lambda events: doorbell.projected({e.stream_id: e.version for e in events})
        case "replies":
            return lambda events: doorbell.replies()
    return lambda events: None
