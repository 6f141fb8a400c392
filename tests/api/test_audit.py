"""Auditors read everything of their tenant and change nothing; every reading is in the log first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql

from bichat.audit import feed
from bichat.audit.log import BYTES, feed_query
from bichat.deltas import Deltas
from bichat.events.envelope import Actor
from bichat.forgetting.erasing import Forgetting
from bichat.model import canonical
from bichat.projections import cursor
from bichat.projections.sql import statement
from bichat.prompts import BUILT_IN, Prompt
from bichat.shown import Place, request
from bichat.workers import context
from tests.api.conftest import Api
from tests.api.talk import Asked, ask, execute, write
from tests.api.test_refusals import check
from tests.examples import DIALOGUE, TENANT, start_reply

AUDIT = "/v1/audit"


@pytest.fixture
def anna(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """A person of the tenant."""
    with api.client("anna", tenant=str(tenant)) as client:
        yield client


def read(client: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    """What an audit route shows."""
    told = client.get(f"{AUDIT}{path}", params=params)
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


def everything(client: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    """All pages of it."""
    found, after = list[dict[str, Any]](), dict[str, str]()
    while True:
        page = read(client, path, **params, **after)
        found += page["data"]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


def test_the_events_of_a_dialogue_say_who_and_when_and_what(
    api: Api, anna: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    asked = ask(anna, "How much?")
    write(api, asked, tenant=tenant)
    assert anna.delete(f"/v1/dialogues/{asked[0]}").status_code == 200
    events = everything(carl, f"/dialogues/{asked[0]}/events", limit=2)
    assert [(e["version"], e["type"], e["actor"]["id"]) for e in events] == [
        (1, "DialogueStarted", "anna"), (2, "MessageAdded", "anna"), (3, "ReplyStarted", "w1"),
        (4, "MessageAdded", "w1"), (5, "DialogueDeleted", "anna"),
    ]  # fmt: skip
    assert [e["prev_hash"] for e in events] == ["00" * 32, *(e["hash"] for e in events[:-1])]
    assert [e["data"].get("content") for e in events] == [None, "How much?", None, "It is a lot.", None]
    assert read(carl, f"/dialogues/{asked[0]}/events", limit=5)["next"] is None
    assert read(carl, f"/dialogues/{asked[0]}/events", limit=4)["next"] is not None


def test_a_dialogue_reads_as_it_was_at_a_version_or_a_time(
    api: Api, anna: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    asked = ask(anna)
    path = f"/dialogues/{asked[0]}"
    for n in range(60):
        anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": f"More {n}?"})
    write(api, asked, tenant=tenant)
    told = anna.get(f"/v1/dialogues/{asked[0]}?min_version=64").json()
    now = read(carl, path)
    assert len(now["messages"]) == now["message_count"] == 62
    assert now | {"messages": now["messages"][-50:]} == told
    anna.delete(f"/v1/dialogues/{asked[0]}")
    assert read(carl, path)["state"] == "deleted"
    assert read(carl, path, version=64) == now
    then = read(carl, path, version=3)
    assert ([m["content"] for m in then["messages"]], then["version"]) == (["How much?", "More 0?"], 3)
    by_time = read(carl, path, at=then["updated_at"])
    assert by_time["version"] >= 3
    assert by_time["updated_at"] == then["updated_at"]
    assert read(carl, path, at="9999-12-31T23:59:59+00:00")["state"] == "deleted"
    check(carl.get(f"{AUDIT}{path}?version=999"), 400, "version")
    check(carl.get(f"{AUDIT}{path}?at=2020-01-01T00:00:00Z"), 404)


def test_the_feed_is_whole_and_ends_where_the_log_stood_at_its_first_page(
    api: Api, anna: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    for n in range(12):
        ask(anna, f"Question {n}?")
    page = read(carl, "/events", limit=7)
    found = page["data"]
    while page["next"]:
        ask(anna, "And now?")
        page = read(carl, "/events", limit=7, after=page["next"])
        found += page["data"]
    positions = [e["position"] for e in found]
    assert positions == sorted(set(positions))
    said = [e["data"]["content"] for e in found if e["type"] == "MessageAdded"]
    assert said == [f"Question {n}?" for n in range(12)]
    assert [e["type"] for e in found][-1] == "AuditRead", "the reading itself is in it"


def test_the_feed_is_filtered_by_kind_person_and_time(
    api: Api, anna: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    with api.client("bert", tenant=str(tenant)) as bert:
        asked = [ask(person) for person in (anna, bert, anna)]
    write(api, asked[1], tenant=tenant)
    whole = everything(carl, "/events", limit=100)
    filters: list[dict[str, Any]] = [
        {"type": "MessageAdded"}, {"user_id": "bert"}, {"type": "MessageAdded", "user_id": "anna"},
        {"since": whole[2]["at"]}, {"until": whole[3]["at"]},
        {"since": whole[2]["at"], "until": whole[4]["at"]},
        {"type": "ReplyStarted", "since": whole[0]["at"]}, {"user_id": "nobody"},
    ]  # fmt: skip
    for given in filters:
        wanted = [
            e["position"] for e in whole
            if e["type"] == given.get("type", e["type"])
            and (e["actor"] == {"kind": "user", "id": given["user_id"]} if "user_id" in given else True)
            and given.get("since", "") <= e["at"] < given.get("until", "9")
        ]  # fmt: skip
        seen = everything(carl, "/events", limit=2, **given)
        assert [e["position"] for e in seen if e["type"] != "AuditRead"] == [
            p for p in wanted if p <= whole[-2]["position"]
        ], given


def test_a_page_that_finds_little_is_short_and_the_next_one_goes_on(
    anna: httpx.Client, carl: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOKED_AT", 4)
    for n in range(5):
        ask(anna, f"Question {n}?")
    params = {"user_id": "anna", "type": "DialogueStarted"}
    first = read(carl, "/events", limit=100, **params)
    assert first["data"]
    assert len(everything(carl, "/events", limit=1, **params)) == 5


def test_only_auditors_read_and_only_their_tenant(api: Api, anna: httpx.Client, carl: httpx.Client) -> None:
    dialogue_id, message_id = ask(anna, "a secret")
    paths = [
        f"/dialogues/{dialogue_id}", f"/dialogues/{dialogue_id}/events", f"/dialogues/{dialogue_id}/attempts",
        f"/dialogues/{dialogue_id}/messages/{message_id}/attempts/1", "/events",
    ]  # fmt: skip
    for roles in (["user"], ["ops"], ["operator"], ["user", "ops", "operator"]):
        with api.client("carl", tenant=str(uuid4()), roles=roles) as other:
            for path in paths:
                check(other.get(AUDIT + path), 403)
    with api.client("carl", tenant=str(uuid4()), roles=["auditor"]) as stranger:
        nowhere = str(uuid4())
        for path in paths[:-1]:
            told = check(stranger.get(AUDIT + path), 404)
            same = check(stranger.get(AUDIT + path.replace(str(dialogue_id), nowhere)), 404)
            assert told.text.replace(str(dialogue_id), "") == same.text.replace(nowhere, "")
        seen = everything(stranger, "/events")
        assert {e["type"] for e in seen} == {"AuditRead"}
        assert len(seen) == 9
    check(carl.get("/v1/dialogues"), 403)
    assert read(carl, paths[0])["messages"][0]["content"] == "a secret"


def test_every_reading_is_recorded_also_of_what_is_not_there(carl: httpx.Client, anna: httpx.Client) -> None:
    dialogue_id, nowhere = ask(anna)[0], uuid4()
    read(carl, f"/dialogues/{dialogue_id}", version=1)
    carl.get(f"{AUDIT}/dialogues/{nowhere}/attempts", headers={"Idempotency-Key": "k"})
    carl.get(f"{AUDIT}/dialogues/{nowhere}/attempts", headers={"Idempotency-Key": "k", "If-Match": '"9"'})
    seen = everything(carl, "/events", type="AuditRead", user_id="carl")
    about = {"what": "attempts", "dialogue_id": str(nowhere), "asked": {"limit": "20"}}
    assert [e["data"] for e in seen] == [
        {"what": "dialogue", "dialogue_id": str(dialogue_id), "asked": {"version": "1"}},
        about,
        about,
        {"what": "feed", "asked": {"limit": "20", "type": "AuditRead", "user_id": "carl"}},
    ]
    assert {(e["subject"], e["dialogue_id"]) for e in seen} == {("audit", None)}
    stream = seen[0]["stream_id"]
    for path in ("", "/events", "/attempts"):
        check(carl.get(f"{AUDIT}/dialogues/{stream}{path}"), 404)


def test_nothing_is_shown_that_could_not_be_recorded(
    api: Api, carl: httpx.Client, anna: httpx.Client, module_database_url: str
) -> None:
    dialogue_id = ask(anna, "a secret")[0]
    with psycopg.connect(module_database_url, autocommit=True) as connection:
        connection.execute("alter table bichat.stored_events add check (topic <> 'AuditRead') not valid")
        try:
            for path in (f"/dialogues/{dialogue_id}", f"/dialogues/{dialogue_id}/events", "/events"):
                told = check(carl.get(AUDIT + path), 503)
                assert "secret" not in told.text
                assert told.headers["retry-after"] == "1"
        finally:
            connection.execute("alter table bichat.stored_events drop constraint stored_events_topic_check")
    assert read(carl, f"/dialogues/{dialogue_id}")["version"] == 2


BAD = {
    "/events?after=here": "after", "/events?limit=0": "limit", "/events?limit=101": "limit",
    f"/events?limit={10**30}": "limit", "/events?type=Nonsense": "type", "/events?type=": "type",
    "/events?user_id=": "user_id", "/events?user_id=%00": "user_id",
    f"/events?user_id={'x' * 129}": "user_id",
    "/events?since=2026-01-01T00:00:00": "since", "/events?until=2026-01-01": "until",
    "/events?since=yesterday": "since", "/events?sinse=2026-01-01T00:00:00Z": "sinse",
    "/events?since=0001-01-01T00:00:00%2B23:00": "since",
    "/dialogues/x": "dialogue_id", "/dialogues/x/events": "dialogue_id",
    "/dialogues/x/attempts": "dialogue_id",
    f"/dialogues/{DIALOGUE}?version=0": "version", f"/dialogues/{DIALOGUE}?version={2**63}": "version",
    f"/dialogues/{DIALOGUE}?at=2026-01-01T00:00:00": "at",
    f"/dialogues/{DIALOGUE}?at=2026-01-01T00:00:00Z&version=1": "at",
    f"/dialogues/{DIALOGUE}/events?after={'x' * 513}": "after",
    f"/dialogues/{DIALOGUE}/events?after={cursor.write((-1,))}": "after",
    f"/dialogues/{DIALOGUE}/attempts?after={cursor.write(('x',))}": "after",
    f"/events?after={cursor.write((1,))}": "after",
    f"/dialogues/{DIALOGUE}/messages/x/attempts/1": "message_id",
    f"/dialogues/{DIALOGUE}/messages/{DIALOGUE}/attempts/x": "number",
}  # fmt: skip


@pytest.mark.parametrize(("path", "field"), BAD.items())
def test_bad_questions_are_refused_by_name(carl: httpx.Client, path: str, field: str) -> None:
    check(carl.get(AUDIT + path), 400, field)


def test_far_times_and_cursors_of_the_end_find_nothing(carl: httpx.Client, anna: httpx.Client) -> None:
    ask(anna)
    for since in ("9999-12-31T23:59:59.999999Z", "2099-01-01T00:00:00%2B05:00"):
        assert carl.get(f"{AUDIT}/events?since={since}").json() == {"data": [], "next": None}
    for until in ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"):
        assert carl.get(f"{AUDIT}/events?until={until}").json() == {"data": [], "next": None}
    place = cursor.write((2**53 - 1, 2**53 - 1))
    assert carl.get(f"{AUDIT}/events?after={place}").json() == {"data": [], "next": None}


def test_attempts_say_what_was_shown_and_how_they_ended(
    api: Api, anna: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    asked = ask(anna)
    write(api, asked, end="again", tenant=tenant)
    write(api, asked, end="not", attempt=2, tenant=tenant)
    write(api, asked, attempt=3, tenant=tenant)
    more = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": "And?"}).json()["message_id"]
    write(api, (asked[0], UUID(more)), end="not", tenant=tenant)
    anna.post(f"/v1/dialogues/{asked[0]}/messages/{more}/cancel")
    found = everything(carl, f"/dialogues/{asked[0]}/attempts", limit=3)
    spent = [a["usage"] and a["usage"]["total_tokens"] for a in found]
    assert [(a["attempt"], a["ended"], a.get("code"), n) for a, n in zip(found, spent, strict=True)] == [
        (1, "failed", "model_cut_off", 17), (2, "given_up", None, None), (3, "answered", None, 17),
        (1, "running", None, None),
    ]  # fmt: skip
    shown = found[0]["messages"]
    assert shown == {
        "count": 1,
        "first": {"message_id": str(asked[1]), "version": 2},
        "last": {"message_id": str(asked[1]), "version": 2},
    }
    path = f"/dialogues/{asked[0]}/messages/{asked[1]}/attempts"
    one = read(carl, f"{path}/3")
    assert one["attempt"] == found[2]
    assert one["digest"] == "differs", "the test's worker has made its digest up"
    for missing in (f"{path}/4", f"/dialogues/{asked[0]}/messages/{uuid4()}/attempts/1"):
        check(carl.get(AUDIT + missing), 404)


def test_a_request_is_rebuilt_byte_for_byte_until_its_text_is_erased(
    api: Api, carl: httpx.Client, anna: httpx.Client, tenant: UUID
) -> None:
    asked = [ask(anna, 'How "much"? ü')]
    write(api, asked[0], "A lot.", tenant=tenant)
    more = anna.post(f"/v1/dialogues/{asked[0][0]}/messages", json={"content": "And?", "name": "Anna"})
    asked.append((asked[0][0], UUID(more.json()["message_id"])))
    sent = start_as_workers_do(api, asked[1], tenant)
    path = f"{AUDIT}/dialogues/{asked[1][0]}/messages/{asked[1][1]}/attempts/1"
    told = carl.get(path)
    assert told.json()["digest"] == "matches"
    assert told.json()["attempt"]["messages"]["count"] == 3
    assert sent in told.content, "as it stands there, byte for byte"
    asyncio.run(forget(api, tenant))
    gone = until_erased(api, carl, path)
    assert (gone["digest"], gone["request"]) == ("erased", None)
    assert gone["attempt"]["messages"]["count"] == 3
    events = everything(carl, f"/dialogues/{asked[1][0]}/events")
    assert [e["data"].get("erased", False) for e in events if e["type"] == "MessageAdded"] == [True] * 3
    assert all(e["data"]["content"] is None for e in events if e["type"] == "MessageAdded")
    whole = read(carl, f"/dialogues/{asked[1][0]}", version=3)
    assert [m["content"] for m in whole["messages"]] == [None]


def start_as_workers_do(api: Api, asked: Asked, tenant: UUID, prompt: Prompt = BUILT_IN) -> bytes:
    """Starts an attempt as workers do; returns the canonical request."""
    ledger = api.executor.ledger
    stream = ledger.load(asked[0])
    question = stream.state.unanswered[asked[1]]
    place = Place(asked[0], question.version, stream.head.version)
    built = context.build(ledger, place, stream.state.unanswered, 8000, prompt)
    start = start_reply(*asked)
    start = replace(start, shown=built.shown, max_tokens=9, temperature=0.5)
    sent = canonical(request(start, built.messages))
    digest = ledger.keys.person(tenant, "anna").digest("request", sent)
    asyncio.run(execute(api, replace(start, request_digest=digest.hex()), tenant))
    return sent


async def forget(api: Api, tenant: UUID) -> None:
    deltas = Deltas(api.redis_url)
    await Forgetting(api.executor, deltas).forget(tenant, "anna", Actor("user", "olga"))
    await deltas.close()


def until_erased(api: Api, client: httpx.Client, path: str) -> dict[str, Any]:
    """What is shown once this process has let go of the keys, which it looks for each second."""
    deadline = time.monotonic() + 10
    while True:
        api.executor.ledger.keys.look()
        told: dict[str, Any] = client.get(path).json()
        if told["digest"] == "erased" or time.monotonic() > deadline:
            return told
        time.sleep(0.1)


def test_a_broken_chain_is_said_and_the_events_are_shown(
    api: Api, anna: httpx.Client, carl: httpx.Client, module_database_url: str
) -> None:
    dialogue_id = ask(anna)[0]
    with psycopg.connect(module_database_url) as connection:
        connection.execute(
            "update bichat.stored_events set command_id = gen_random_uuid()"
            " where originator_id = %s and originator_version = 2", (dialogue_id,)
        )  # fmt: skip
    told = check(carl.get(f"{AUDIT}/dialogues/{dialogue_id}"), 409).json()
    assert told["type"] == "urn:bichat:error:ChainBroken"
    assert told["detail"].startswith("Event 2 of this dialogue is not what was once stored")
    assert len(everything(carl, f"/dialogues/{dialogue_id}/events")) == 2
    assert read(carl, f"/dialogues/{dialogue_id}", version=1)["version"] == 1


@pytest.mark.parametrize(
    ("given", "index"),
    [({}, "stored_events_tenant"), ({"type": "AuditRead"}, "stored_events_topic"),
     ({"user_id": "nobody"}, "stored_events_actor")],
)  # fmt: skip
def test_a_page_of_the_feed_costs_the_same_wherever_it_is(
    database_url: str, given: dict[str, str], index: str
) -> None:
    """As the reader's role plans it, under row-level security, in a big tenant among many small ones."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(LONG_LOG)
        connection.execute("analyze bichat.stored_events")
        connection.execute(statement("reads", "configure"), prepare=False)
        connection.execute(statement("reads", "bind"), (str(TENANT),))
        query = feed_query(bool(given.get("type")), bool(given.get("user_id"))).decode()
        page = {"after": 20_000, "end": 40_000, "limit": 21, "bytes": BYTES}
        values: dict[str, Any] = {"tenant": TENANT, **page, **given}
        for number, name in enumerate(values, 1):
            query = query.replace(f"%({name})s", f"${number}")
        types = ["uuid", *["bigint"] * 4, "text"][: len(values)]
        connection.execute("begin")
        if given:
            connection.execute(statement("log", "plan", "bichat.audit"))
        connection.execute(f"prepare page ({', '.join(types)}) as {query}".encode())
        given_sql = sql.SQL(", ").join(map(sql.Literal, values.values()))
        explain = sql.SQL("explain (analyze, format json) execute page ({})").format(given_sql)
        row = connection.execute(explain).fetchone()
    assert row is not None
    nodes = list(_nodes(row[0][0]["Plan"]))
    assert not [node for node in nodes if "Sort" in node["Node Type"]]
    scanned, *before = [node for node in nodes if node.get("Index Name")]
    assert scanned["Index Name"] == index
    assert {node["Index Name"] for node in before} == {"stored_events_pkey"}
    assert scanned["Actual Rows"] == 21
    assert scanned.get("Rows Removed by Filter", 0) == 0


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


LONG_LOG = f"""
insert into bichat.stored_events
    (originator_id, originator_version, topic, state, tenant_id, command_id, hash, actor, notification_id)
select gen_random_uuid(), 1, case n % 9 when 0 then 'AuditRead' else 'MessageAdded' end, '{{}}',
       case n % 3 when 0 then '{TENANT}'::uuid else md5((n % 1000)::text)::uuid end, gen_random_uuid(), 'x',
       case n % 7 when 0 then 'nobody' else 'user ' || n % 100 end, n
from generate_series(1, 30000) n
"""
