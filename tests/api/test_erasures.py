"""Ops forget a person: the key is destroyed, the text gone, the log stays whole; holds refuse."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from bichat.events.dialogue import TextErased
from tests.api.conftest import Api
from tests.api.talk import Asked, ask, write
from tests.api.test_refusals import check
from tests.examples import OTHER_TENANT

ERASURES, HOLDS = "/v1/ops/erasures", "/v1/ops/holds"


@pytest.fixture
def anna(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """Who is to be forgotten."""
    with api.client("anna", tenant=str(tenant)) as client:
        yield client


def forget(client: httpx.Client, user: str = "anna", **headers: str) -> dict[str, Any]:
    told = client.post(ERASURES, json={"user_id": user}, headers=headers)
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


def texts(client: httpx.Client, asked: Asked) -> list[str | None]:
    told = client.get(f"/v1/dialogues/{asked[0]}")
    assert told.status_code == 200, told.text
    return [told.json()["label"], *(message["content"] for message in told.json()["messages"])]


def keys_of(url: str, tenant: UUID, user: str = "anna") -> list[bool]:
    """Whether each key of a person still lives, oldest first."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select wrapped is not null from bichat_keys.data_keys"
            " where tenant_id = %s and user_id = %s order by generation",
            (tenant, user),
        ).fetchall()
    return [live for (live,) in rows]


def test_a_person_is_forgotten_everywhere_and_who_and_when_stays(
    api: Api, module_database_url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    first, second = ask(anna), ask(anna)
    write(api, first, tenant=tenant)
    anna.patch(f"/v1/dialogues/{first[0]}", json={"label": "Sales"})
    tag = anna.get(f"/v1/dialogues/{first[0]}").headers["etag"]
    with api.client("bob", tenant=str(tenant)) as bob:
        other = ask(bob)
        told = forget(olga)
        assert (told["user_id"], told["dialogues"], told["keys"]) == ("anna", 2, 1)
        assert (told["done"], told["behind"], told["unreadable"]) == (True, [], [])
        assert texts(anna, first) == [None, None, None]
        assert texts(anna, second) == ["", None]
        assert texts(bob, other) == ["", "How much?"]
    assert anna.get(f"/v1/dialogues/{first[0]}").headers["etag"] != tag
    assert keys_of(module_database_url, tenant) == [False]
    (entry,) = olga.get(ERASURES).json()["data"]
    assert entry["erasure_id"] == told["erasure_id"]
    assert entry["asked_by"] == {"kind": "user", "id": "olga"}
    assert entry["asked_at"] < entry["done_at"]
    last = api.executor.ledger.read(first[0])[-1]
    assert isinstance(last.fact, TextErased)
    assert (last.actor.id, str(last.command_id)) == ("olga", told["erasure_id"])


def test_who_comes_back_has_a_new_key_and_what_they_say_is_shown(
    module_database_url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = ask(anna)
    forget(olga)
    again = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": "And now?"})
    assert again.status_code == 202
    assert keys_of(module_database_url, tenant) == [False, True]
    version = again.json()["version"]
    read = anna.get(f"/v1/dialogues/{asked[0]}", params={"min_version": version}).json()
    assert [message["content"] for message in read["messages"]] == [None, "And now?"]
    told = forget(olga)
    assert (told["dialogues"], told["keys"], told["done"]) == (1, 1, True)
    assert keys_of(module_database_url, tenant) == [False, False]
    assert texts(anna, asked) == ["", None, None]


def test_who_is_forgotten_and_has_said_nothing_since_is_forgotten(
    anna: httpx.Client, olga: httpx.Client
) -> None:
    ask(anna)
    first, again = forget(olga), forget(olga)
    assert (again["dialogues"], again["keys"], again["done"]) == (0, 0, True)
    assert again["erasure_id"] != first["erasure_id"]
    page = olga.get(ERASURES, params={"limit": 1}).json()
    assert [one["erasure_id"] for one in page["data"]] == [again["erasure_id"]]
    page = olga.get(ERASURES, params={"limit": 1, "after": page["next"]}).json()
    assert [one["erasure_id"] for one in page["data"]] == [first["erasure_id"]]
    assert page["next"] is None


def test_a_repeat_is_told_of_the_first_and_forgets_nothing_more(
    module_database_url: str, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    ask(anna)
    headers = {"Idempotency-Key": "forget"}
    first = forget(olga, **headers)
    ask(anna)
    told = olga.post(ERASURES, json={"user_id": "anna"}, headers=headers)
    assert told.headers["Idempotent-Replayed"] == "true"
    assert told.json()["erasure_id"] == first["erasure_id"]
    assert (told.json()["dialogues"], told.json()["keys"]) == (1, 1)
    assert keys_of(module_database_url, tenant) == [False, True]
    assert len(olga.get(ERASURES).json()["data"]) == 1
    check(olga.post(ERASURES, json={"user_id": "bob"}, headers=headers), 404)
    ask(anna)
    with_other = olga.post(ERASURES, json={"user_id": "olga"}, headers=headers)
    check(with_other, 422)


def test_a_repeat_of_what_a_forgotten_person_did_is_not_guessed_at(
    anna: httpx.Client, olga: httpx.Client
) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"message": "How much?"}
    assert anna.post("/v1/dialogues", json=body, headers=headers).status_code == 202
    forget(olga)
    for _ in range(2):
        told = anna.post("/v1/dialogues", json=body, headers=headers)
        check(told, 422)
        assert told.headers["x-should-retry"] == "false"


def test_several_at_once_forget_a_person_once(anna: httpx.Client, olga: httpx.Client) -> None:
    for _ in range(20):
        ask(anna)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: forget(olga), range(4)))
    assert all(one["done"] for one in told)
    assert sum(d for _, d in {(one["erasure_id"], one["dialogues"]) for one in told}) == 20
    assert sum(k for _, k in {(one["erasure_id"], one["keys"]) for one in told}) == 1


def test_nobody_else_forgets_and_another_tenant_sees_nothing(
    api: Api, tenant: UUID, anna: httpx.Client, olga: httpx.Client
) -> None:
    asked = ask(anna)
    for roles in (["user"], ["auditor"], ["operator"]):
        with api.client("anna", tenant=str(tenant), roles=roles) as client:
            for method, path in (("POST", ERASURES), ("GET", ERASURES), ("POST", HOLDS), ("GET", HOLDS)):
                check(client.request(method, path, json={"user_id": "anna"}), 403)
            check(client.delete(f"{HOLDS}/{uuid4()}"), 403)
    with api.client("olga", tenant=str(OTHER_TENANT), roles=["ops"]) as stranger:
        check(stranger.post(ERASURES, json={"user_id": "anna"}), 404)
        check(stranger.post(HOLDS, json={"user_id": "anna", "reason": "x"}), 404)
        check(stranger.post(HOLDS, json={"dialogue_id": str(asked[0]), "reason": "x"}), 404)
        hold = olga.post(HOLDS, json={"user_id": "anna", "reason": "A lawsuit"}).json()
        assert stranger.get(HOLDS).json()["data"] == []
        assert stranger.get(HOLDS, params={"user_id": "anna"}).json()["data"] == []
        check(stranger.delete(f"{HOLDS}/{hold['hold_id']}"), 404)
        olga.delete(f"{HOLDS}/{hold['hold_id']}")
        forget(olga)
        assert stranger.get(ERASURES).json()["data"] == []


@pytest.mark.parametrize("on", ["user_id", "dialogue_id"])
def test_a_hold_refuses_and_says_so_until_it_is_released(
    anna: httpx.Client, olga: httpx.Client, on: str
) -> None:
    asked = ask(anna)
    what = {"user_id": "anna"} if on == "user_id" else {"dialogue_id": str(asked[0])}
    placed = olga.post(HOLDS, json={**what, "reason": "A lawsuit"}, headers={"Idempotency-Key": "hold"})
    assert placed.status_code == 201
    hold = placed.json()
    assert (hold["user_id"], hold["reason"]) == ("anna", "A lawsuit")
    assert hold["dialogue_id"] == what.get("dialogue_id")
    again = olga.post(HOLDS, json={**what, "reason": "A lawsuit"}, headers={"Idempotency-Key": "hold"})
    assert again.json() == hold
    assert again.headers["Idempotent-Replayed"] == "true"
    assert olga.get(HOLDS, params={"user_id": "anna"}).json() == {"data": [hold], "next": None}
    told = olga.post(ERASURES, json={"user_id": "anna"})
    check(told, 409)
    assert told.headers["x-should-retry"] == "false"
    assert hold["hold_id"] in told.json()["detail"]
    assert texts(anna, asked) == ["", "How much?"]
    assert olga.get(ERASURES).json()["data"] == []
    headers = {"Idempotency-Key": "release"}
    released = olga.delete(f"{HOLDS}/{hold['hold_id']}", headers=headers)
    assert released.status_code == 200, released.text
    assert olga.delete(f"{HOLDS}/{hold['hold_id']}", headers=headers).json() == released.json()
    check(olga.delete(f"{HOLDS}/{hold['hold_id']}"), 404)
    assert olga.get(HOLDS).json()["data"] == []
    assert forget(olga)["done"]


def test_of_a_hold_and_an_erasure_at_once_one_is_first(tenant: UUID, api: Api, olga: httpx.Client) -> None:
    for n in range(6):
        who = f"anna{n}"
        with api.client(who, tenant=str(tenant)) as client, ThreadPoolExecutor(2) as pool:
            asked = ask(client)
            hold = pool.submit(olga.post, HOLDS, json={"user_id": who, "reason": "A lawsuit"})
            erasure = pool.submit(olga.post, ERASURES, json={"user_id": who})
            statuses = (hold.result().status_code, erasure.result().status_code)
            shown = texts(client, asked)
        held = olga.get(HOLDS, params={"user_id": who}).json()["data"]
        if statuses == (201, 409):
            assert (len(held), shown) == (1, ["", "How much?"])
        else:  # placed when it was over, or while it was under way
            assert statuses in {(201, 200), (503, 200)}
            assert shown == ["", None]


def test_holds_come_in_pages(anna: httpx.Client, olga: httpx.Client) -> None:
    ask(anna)
    placed = [olga.post(HOLDS, json={"user_id": "anna", "reason": str(n)}).json() for n in range(3)]
    page = olga.get(HOLDS, params={"limit": 2}).json()
    assert page["data"] == placed[:2]
    assert olga.get(HOLDS, params={"after": page["next"]}).json() == {"data": placed[2:], "next": None}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (ERASURES, {}, "user_id"),
        (ERASURES, {"user_id": ""}, "user_id"),
        (ERASURES, {"user_id": "x" * 129}, "user_id"),
        (ERASURES, {"user_id": "\x00"}, "user_id"),
        (HOLDS, {"user_id": "a\nb", "reason": "x"}, "user_id"),
        (ERASURES, {"user_id": "a", "now": True}, "now"),
        (HOLDS, {"reason": "x"}, "user_id"),
        (HOLDS, {"reason": "x", "user_id": "a", "dialogue_id": str(uuid4())}, "user_id"),
        (HOLDS, {"user_id": "a"}, "reason"),
        (HOLDS, {"user_id": "a", "reason": " "}, "reason"),
    ],
)
def test_a_bad_body_is_refused_by_name(olga: httpx.Client, path: str, body: Any, field: str) -> None:
    check(olga.post(path, json=body), 400, field)


def test_who_is_nobody_here_is_not_found(olga: httpx.Client, module_database_url: str, tenant: UUID) -> None:
    check(olga.post(ERASURES, json={"user_id": "nobody"}), 404)
    check(olga.post(HOLDS, json={"user_id": "nobody", "reason": "x"}), 404)
    assert keys_of(module_database_url, tenant, "nobody") == []
    assert olga.get(ERASURES).json() == {"data": [], "next": None}
