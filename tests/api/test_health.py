"""Readiness: told by what the read models are, not by bells; in words, and without a secret."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from msgspec.structs import replace

from bichat.api.health import ailing
from bichat.config import Config
from bichat.projections.standing import Standing
from bichat.projections.versions import MODELS
from tests.api.conftest import Api, served
from tests.api.talk import ask
from tests.api.tokens import SECRET

DEAD_REDIS = "redis://127.0.0.1:9/0"


@pytest.fixture
def deaf(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[tuple[Api, str]]:
    """An API and its projector that hear no bell, and their database."""
    with new_database() as url:
        config = Config(
            database_url=url, redis_url=DEAD_REDIS, bichat_jwt_secret=SECRET, bichat_ready_lag_seconds=1
        )
        with served(config) as api:
            until(api, 200)
            yield api, url


def until(api: Api, status: int) -> str:
    """The detail of the first answer with this status."""
    deadline = time.monotonic() + 15
    while (told := httpx.get(f"{api.url}/health/ready")).status_code != status:
        assert time.monotonic() < deadline, told.text
        time.sleep(0.1)
    assert httpx.get(f"{api.url}/health/live").status_code == 200
    if status == 503:
        assert told.headers["content-type"] == "application/problem+json"
        assert told.headers["retry-after"] == "1"
        assert told.json()["title"] == "Not ready"
    return str(told.json().get("detail", ""))


def test_a_read_model_that_is_late_is_named_until_it_has_caught_up(deaf: tuple[Api, str]) -> None:
    api, url = deaf
    with psycopg.connect(url) as owner, api.client() as anna:
        owner.execute("select from bichat.checkpoints where name = 'dialogues' for update")
        ask(anna)
        late = until(api, 503)
        assert late.startswith("The read model dialogues is late: it is 2 events and ")
        assert late.endswith(" s behind the log.")
        owner.rollback()
        until(api, 200)


def test_a_read_model_that_has_stopped_is_named_until_it_goes_on(deaf: tuple[Api, str]) -> None:
    api, url = deaf
    with psycopg.connect(url, autocommit=True) as owner, api.client() as anna:
        owner.execute("alter table bichat.dialogues_v1_g1 rename to away")
        ask(anna)
        stopped = until(api, 503)
        assert stopped.startswith("The read model dialogues has stopped and is 2 events and ")
        assert "dialogues_v1_g1" not in stopped  # the database's words, which may be anybody's
        owner.execute("alter table bichat.away rename to dialogues_v1_g1")
        until(api, 200)


def standing(name: str = "usage", **how: object) -> Standing:
    """A build that serves and is well."""
    well = Standing(
        name=name, shape=1, build=1, serves=True, state="live", phase="done", error="", position=7, head=7,
        lag_events=0, lag_seconds=0.0, rate=0.0, parked=0, runner="here:1", running=True, slices=None,
        loaded=None, updated_at=datetime.now(UTC),
    )  # fmt: skip
    return replace(well, **how)


WELL = [standing(model.name, shape=model.shape) for model in MODELS]


def test_what_nobody_reads_does_not_count() -> None:
    unread = [
        standing(build=2, serves=False, state="stopped"),
        standing(build=3, serves=False, state="building", phase="loading", lag_seconds=9e9),
        standing(shape=99, state="stopped"),  # of other code
        standing("of older code", lag_seconds=9e9),
        standing(build=4, serves=False, running=False, lag_seconds=9e9),
    ]
    assert ailing([*WELL, *unread], lag=30) == ""


def test_a_parked_dialogue_and_a_change_of_followers_leave_it_ready() -> None:
    assert ailing([replace(one, parked=3, running=False, lag_seconds=30.0) for one in WELL], lag=30) == ""


def test_every_reason_is_told() -> None:
    late = replace(WELL[1], lag_events=5, lag_seconds=30.6)
    stopped = replace(WELL[2], state="stopped")
    assert ailing([late, stopped, *WELL[3:]], lag=30) == (
        f"There is no read model {WELL[0].name} in version {WELL[0].shape}. "
        f"The read model {late.name} is late: it is 5 events and 31 s behind the log. "
        f"The read model {stopped.name} has stopped and is 0 events and 0 s behind the log."
    )
