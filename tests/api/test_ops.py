"""Ops see what is unanswered in their tenant and queue it again; operators see the read models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import AsyncConnection

from bichat.commands.reply import GiveUpReply
from bichat.events.dialogue import ReplyRequeued
from bichat.projections import cursor, replies
from bichat.projections.standing import Standing
from bichat.projections.versions import MODELS
from tests.api.conftest import Api
from tests.api.talk import Asked, Ear, ask, events, execute, finish, kinds, write
from tests.api.test_refusals import check
from tests.examples import DIALOGUE, NOON, OTHER_TENANT, opened

REPLIES = "/v1/ops/replies"
PROJECTIONS = "/v1/ops/projections"


@pytest.fixture(scope="module")
def url(module_database_url: str) -> str:
    """The API's database."""
    return module_database_url


@pytest.fixture
def anna(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """A person of the tenant."""
    with api.client("anna", tenant=str(tenant)) as client:
        yield client


@pytest.fixture
def operator(api: Api) -> Iterator[httpx.Client]:
    """Who keeps the installation well, and is of no tenant that matters."""
    with api.client("otto", tenant=str(OTHER_TENANT), roles=["operator"]) as client:
        yield client


def listed(url: str, client: httpx.Client, **params: Any) -> dict[UUID, dict[str, Any]]:
    """Every page of the list as of now, by question."""
    found: dict[UUID, dict[str, Any]] = {}
    with psycopg.connect(url) as connection:
        (params["min_position"],) = connection.execute("select bichat.head()").fetchone() or (0,)
    while True:
        page = client.get(REPLIES, params=params)
        assert page.status_code == 200, page.text
        assert len(page.json()["data"]) <= params.get("limit", 20)
        for one in page.json()["data"]:
            assert UUID(one["message_id"]) not in found
            found[UUID(one["message_id"])] = one
        params["after"] = page.json()["next"]
        if params["after"] is None:
            return found


def fail(api: Api, asked: Asked, tenant: UUID, attempt: int = 1) -> None:
    write(api, asked, attempt=attempt, end="failed", tenant=tenant)


def test_what_is_unanswered_is_listed_with_how_it_stands(
    api: Api, url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    waiting, running, failed, answered, cancelled = (ask(anna) for _ in range(5))
    write(api, running, end="not", tenant=tenant)
    fail(api, failed, tenant)
    write(api, answered, tenant=tenant)
    anna.post(f"/v1/dialogues/{cancelled[0]}/messages/{cancelled[1]}/cancel")
    found = listed(url, olga)
    assert [(i, one["state"]) for i, one in found.items()] == [
        (waiting[1], "waiting"), (running[1], "running"), (failed[1], "failed"),
    ]  # fmt: skip
    one = found[failed[1]]
    assert one["asked_at"] < one["updated_at"]
    del one["asked_at"], one["updated_at"]
    assert one == {
        "message_id": str(failed[1]), "dialogue_id": str(failed[0]), "user_id": "anna", "state": "failed",
        "attempts": 1, "tries": 1, "off_peak": False, "waits_until": None, "worked_on": False,
        "parked_at": None,
        "last_error": {"code": "model_cut_off", "detail": None},
    }  # fmt: skip
    assert found[waiting[1]]["last_error"] is None
    for state, asked in (("waiting", waiting), ("running", running), ("failed", failed)):
        assert list(listed(url, olga, state=state)) == [asked[1]]


def test_pages_come_longest_asked_first_and_neither_skip_nor_repeat(
    url: str, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = [ask(anna)[1] for _ in range(5)]
    for limit in (1, 2, 5, 100):
        assert list(listed(url, olga, limit=limit)) == asked


def test_who_works_on_it_and_what_is_parked_is_told(
    url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    first, second = ask(anna), ask(anna)
    listed(url, olga)

    async def claim() -> None:
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            claimed = await replies.claim(connection, "a worker", 100)
            for one in claimed:
                if one.message_id != first[1]:
                    await replies.hand_back(connection, "a worker", one.message_id, 60)

    asyncio.run(claim())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)"
            " values ('replies', 2, 1, %s, %s, 1, 9, 'x')",
            (second[0], tenant),
        )
    found = listed(url, olga)
    assert [found[i]["worked_on"] for _, i in (first, second)] == [True, False]
    assert [found[i]["parked_at"] is not None for _, i in (first, second)] == [False, True]


def retry(client: httpx.Client, message_id: object, **headers: str) -> httpx.Response:
    return client.post(f"{REPLIES}/{message_id}/retry", headers=headers)


def test_ops_queue_a_failed_question_again_and_the_log_says_who(
    api: Api, url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = ask(anna)
    fail(api, asked, tenant)
    told = retry(olga, asked[1])
    assert told.status_code == 202
    assert told.json() == {"dialogue_id": str(asked[0]), "version": 5, "position": told.json()["position"]}
    (one,) = listed(url, olga).values()
    assert (one["state"], one["attempts"], one["tries"]) == ("waiting", 1, 0)
    assert one["last_error"]["code"] == "model_cut_off"
    with opened(url) as ledger:
        event = ledger.read(asked[0])[-1]
    assert isinstance(event.fact, ReplyRequeued)
    assert (event.actor.kind, event.actor.id) == ("user", "olga")
    write(api, asked, attempt=2, tenant=tenant)
    assert anna.get(f"/v1/dialogues/{asked[0]}?min_version=7").json()["status"] == "answered"


def test_the_same_key_is_answered_as_the_first_time_even_when_the_question_is_answered(
    api: Api, url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked, other = ask(anna), ask(anna)
    fail(api, asked, tenant)
    fail(api, other, tenant)
    key = {"Idempotency-Key": "once"}
    first = retry(olga, asked[1], **key)
    write(api, asked, attempt=2, tenant=tenant)
    assert asked[1] not in listed(url, olga)
    again = retry(olga, asked[1], **key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    check(retry(olga, other[1], **key), 422)
    assert listed(url, olga)[other[1]]["state"] == "failed"
    check(retry(olga, other[1], **{"If-Match": '"3"'}), 412)


def test_only_what_failed_is_queued_again(
    api: Api, url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = ask(anna)
    assert check(retry(olga, asked[1]), 409).headers["x-should-retry"] == "false"
    write(api, asked, end="not", tenant=tenant)
    assert "this one is running" in check(retry(olga, asked[1]), 409).json()["detail"]
    finish(api, asked, tenant=tenant)
    listed(url, olga)
    check(retry(olga, asked[1]), 404)
    cancelled = ask(anna)
    anna.post(f"/v1/dialogues/{cancelled[0]}/messages/{cancelled[1]}/cancel")
    assert "this one is cancelled" in check(retry(olga, cancelled[1]), 409).json()["detail"]
    for change in ("archive", "delete"):
        away = ask(anna)
        fail(api, away, tenant)
        path = f"/v1/dialogues/{away[0]}"
        assert (anna.delete(path) if change == "delete" else anna.post(f"{path}/archive")).is_success
        check(retry(olga, away[1]), 409)


def test_what_could_not_be_queued_is_told_as_failed_without_a_start(
    api: Api, url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = ask(anna)
    ear = Ear(anna, asked)
    whole = Ear(anna, asked, whole=True, last="reply.failed")
    parked = GiveUpReply(
        dialogue_id=asked[0], message_id=asked[1], attempt=0, code="parked", detail="Ask again later."
    )
    asyncio.run(execute(api, parked, tenant))
    for heard in (ear.out(), whole.out(), list(events(anna, asked))):
        (end,) = heard
        assert (end["type"], end["attempt"]) == ("reply.failed", 0)
        assert end["error"] == {"code": "parked", "detail": "Ask again later."}
    assert anna.get(f"/v1/dialogues/{asked[0]}?min_version=3").json()["status"] == "failed"
    with psycopg.connect(url) as connection:
        position = connection.execute("select bichat.head()").fetchone()
    usage = anna.get("/v1/usage", params={"min_position": position and position[0]})
    assert usage.json()["data"] == []
    assert listed(url, olga)[asked[1]]["last_error"]["code"] == "parked"
    assert retry(olga, asked[1]).status_code == 202
    write(api, asked, attempt=1, tenant=tenant)
    assert kinds(list(events(anna, asked))) == ["started", "completed"]


def test_another_tenants_question_is_as_little_there_as_none(
    api: Api, url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = ask(anna)
    fail(api, asked, tenant)
    listed(url, olga)
    with api.client("olga", tenant=str(uuid4()), roles=["ops"]) as stranger:
        assert listed(url, stranger) == {}
        nowhere = uuid4()
        theirs, none = (check(retry(stranger, i), 404).text for i in (asked[1], nowhere))
        assert theirs.replace(str(asked[1]), "") == none.replace(str(nowhere), "")
        assert stranger.get(REPLIES, params={"after": cursor.write((0,))}).json()["data"] == []
        key = {"Idempotency-Key": "once"}
        assert retry(olga, asked[1], **key).status_code == 202
        check(retry(stranger, asked[1], **key), 404)
    assert [one["state"] for one in listed(url, olga).values()] == ["waiting"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?state=cancelled", "state"), ("?state=", "state"), ("?limit=0", "limit"), ("?limit=101", "limit"),
        ("?after=here", "after"), (f"?after={cursor.write((-1,))}", "after"),
        (f"?after={cursor.write((2**63,))}", "after"), (f"?after={cursor.write(('1', DIALOGUE))}", "after"),
        ("?min_position=-1", "min_position"), ("?min_position=999999999", "min_position"),
        ("?user=anna", "user"),
    ],
)  # fmt: skip
def test_bad_queries_are_refused_by_name(olga: httpx.Client, query: str, field: str) -> None:
    check(olga.get(f"{REPLIES}{query}"), 400, field)


@pytest.mark.parametrize("message_id", ["x", "%00", "1" * 40])
def test_what_is_no_id_is_refused(olga: httpx.Client, message_id: str) -> None:
    check(retry(olga, message_id), 400, "message_id")


def test_each_role_reaches_its_own_part_only(api: Api, olga: httpx.Client, operator: httpx.Client) -> None:
    calls = [("GET", REPLIES, "ops"), ("POST", f"{REPLIES}/{uuid4()}/retry", "ops")]
    calls += [("GET", PROJECTIONS, "operator"), ("POST", f"{PROJECTIONS}/nothing/rebuild", "operator")]
    for roles in (["user"], ["ops"], ["operator"], ["auditor"], []):
        with api.client("x", roles=roles) as client:
            for method, path, role in calls:
                told = client.request(method, path)
                assert (told.status_code == 403) == (role not in roles), told.text
                if role not in roles:
                    assert role in check(told, 403).json()["detail"]
    for client in (olga, operator):
        check(client.get("/v1/dialogues"), 403)


def test_an_operator_sees_every_build_of_every_read_model(
    api: Api, url: str, anna: httpx.Client, operator: httpx.Client
) -> None:
    ask(anna)
    told = operator.get(PROJECTIONS)
    assert told.status_code == 200
    found = {one["name"]: one for one in told.json()["data"] if one["build"] == 1}
    shapes = {model.name: model.shape for model in MODELS}
    assert {name: one["version"] for name, one in found.items()} == shapes
    for one in found.values():
        assert (one["build"], one["state"], one["phase"]) == (1, "serving", "done")
        assert (one["serves"], one["running"], one["error"]) == (True, True, "")
        assert 0 <= one["position"] <= one["head"]
        assert one["lag_seconds"] >= 0


@pytest.mark.parametrize(
    ("word", "serves", "state", "phase", "running"),
    [
        ("serving", True, "live", "done", True),
        ("serving", True, "live", "verifying", True),
        ("unfollowed", True, "live", "done", False),
        ("stopped", True, "stopped", "done", True),
        ("standby", False, "live", "done", True),
        ("stopped", False, "stopped", "done", True),
        ("building", False, "building", "requested", False),
        ("building", False, "building", "loading", False),
        ("building", False, "live", "following", True),
        ("failed", False, "live", "failed", True),
    ],
)
def test_how_a_build_is_can_be_said_in_one_word(
    word: str, serves: bool, state: str, phase: str, running: bool
) -> None:
    one = Standing(
        name="usage", shape=1, build=1, serves=serves, state=state, phase=phase, error="", position=1, head=1,
        lag_events=0, lag_seconds=0.0, rate=0.0, parked=0, runner="", running=running, slices=None,
        loaded=None, updated_at=NOON,
    )  # fmt: skip
    assert one.in_a_word == word


def test_a_rebuild_is_asked_for_once_and_seen(url: str, operator: httpx.Client) -> None:
    path = f"{PROJECTIONS}/usage/rebuild"
    first, again = operator.post(path), operator.post(path)
    assert (first.status_code, again.status_code) == (202, 202)
    asked = first.json()
    assert (asked["name"], asked["version"], asked["build"]) == ("usage", 1, 2)
    assert (asked["state"], asked["phase"], asked["serves"]) == ("building", "requested", False)
    assert again.json()["build"] == 2
    assert {one["build"] for one in operator.get(PROJECTIONS).json()["data"] if one["name"] == "usage"} == {
        1,
        2,
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtextextended('bichat.rebuild.usage', 0))")
        connection.execute(
            "update bichat.builds set phase = 'loading', runner = 'host:7' where name = 'usage'"
        )
        refused = check(operator.post(path), 409)
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["type"] == "urn:bichat:error:RebuildRuns"
    for said in ("usage_v1_g2", "host:7", "since 20", "loading"):
        assert said in refused.json()["detail"]


@pytest.mark.parametrize("name", ["users", "usage_v1", "Usage", "%00", "x" * 300])
def test_what_is_no_read_model_is_not_rebuilt(operator: httpx.Client, name: str) -> None:
    check(operator.post(f"{PROJECTIONS}/{name}/rebuild"), 404)
