"""What Prometheus is told: what the processes counted, and how the database says that everything is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import get_args

from litestar import Response, get
from msgspec import Struct
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily as gauge  # noqa: N813 - reads as what it makes

from bichat import metrics
from bichat.api.call import Call
from bichat.errors import Unavailable
from bichat.projections.standing import Standing, State, Waiting, Watches

BUILD = ("read_model", "version", "build")
STATES: tuple[State, ...] = get_args(State)
STATUSES = ("waiting", "running", "failed", "cancelled", "off_peak")
"""The last: waiting too, but for the quiet hours."""
POOL = (
    ("max", "pool_max", "Connections for reading that this API may have."),
    ("size", "pool_size", "Connections that it has."),
    ("available", "pool_available", "Connections that nobody uses."),
    ("waiting", "requests_waiting", "Requests that wait for a connection."),
)


class _Found(Struct, eq=False):
    """Families that were put together for one answer."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        """As the library wants it."""
        return self.families


@get("/metrics", opt={"roles": ("operator",)}, media_type="text/plain", tags=["operations"])
async def scrape(request: Call) -> Response[bytes]:
    """Metrics in Prometheus' text format, or in OpenMetrics for who asks for that.

    What is counted by processes is that of all parts in `bichat serve`, else that of this process; read
    models, the log and questions are those of the whole installation, whichever process is asked.
    """
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    shown = CollectorRegistry()
    shown.register(metrics.registry())
    shown.register(_Found([*_pool(request.parts.reads.pool()), *await _installation(request)]))
    # In a thread: in `bichat serve` it reads files.
    return Response(await asyncio.to_thread(encode, shown), headers={"Content-Type": kind})


async def _installation(request: Call) -> Iterator[Metric]:
    watches: Watches = request.app.state["watches"]
    up = gauge("bichat_database_up", "Whether the database could be asked for what follows.")
    try:
        builds, queue = await asyncio.gather(watches.builds.look(), watches.queue.look())
    except Unavailable:
        up.add_metric([], 0)
        return iter([up])
    up.add_metric([], 1)
    return chain([up], _builds(builds), _queue(queue))


def _builds(builds: list[Standing]) -> Iterator[Metric]:
    head = gauge("bichat_log_position", "Of the newest event.")
    position = gauge("bichat_projection_position", "Of the last event folded in.", labels=BUILD)
    events = gauge("bichat_projection_lag_events", "Events not folded in yet.", labels=BUILD)
    seconds = gauge("bichat_projection_lag_seconds", "Age of the first of them.", labels=BUILD)
    parked = gauge("bichat_projection_parked_dialogues", "Dialogues that it cannot digest.", labels=BUILD)
    rate = gauge("bichat_projection_events_per_second", "Folded in, of late.", labels=BUILD)
    serves = gauge("bichat_projection_serves", "Whether its shape is read from this build.", labels=BUILD)
    followed = gauge("bichat_projection_followed", "Whether a process follows the log for it.", labels=BUILD)
    state = gauge("bichat_projection_state", "1 for the state that it is in.", labels=[*BUILD, "state"])
    for one in builds:
        build = [one.name, str(one.shape), str(one.build)]
        position.add_metric(build, one.position)
        events.add_metric(build, one.lag_events)
        seconds.add_metric(build, one.lag_seconds)
        parked.add_metric(build, one.parked)
        rate.add_metric(build, one.rate)
        serves.add_metric(build, one.serves)
        followed.add_metric(build, one.running)
        for name in STATES:
            state.add_metric([*build, name], one.in_a_word == name)
    head.add_metric([], max((one.head for one in builds), default=0))
    yield from (head, position, events, seconds, parked, rate, serves, followed, state)


def _queue(queue: list[Waiting]) -> Iterator[Metric]:
    found = {one.status: one for one in queue}
    questions = gauge("bichat_questions", "Questions without an answer.", labels=["status"])
    oldest = gauge("bichat_questions_oldest_seconds", "Age of the oldest of them.", labels=["status"])
    for status in STATUSES:
        one = found.get(status, Waiting(status, 0, 0.0))
        questions.add_metric([status], one.questions)
        oldest.add_metric([status], one.oldest)
    yield from (questions, oldest)


def _pool(stats: dict[str, int]) -> Iterator[Metric]:
    for name, key, says in POOL:
        found = gauge(f"bichat_reads_pool_{name}", says)
        found.add_metric([], stats.get(key, 0))
        yield found
