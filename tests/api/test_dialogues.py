"""Dialogues over HTTP: commands are answered when they are in the log, queries wait for what was accepted."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.conftest import Api
from tests.api.talk import ask, write


def test_what_was_just_accepted_is_never_a_404(anna: httpx.Client) -> None:
    for _ in range(20):
        told = anna.post("/v1/dialogues", json={"message": "How much?", "label": "Sales"})
        assert told.status_code == 202
        shown = anna.get(told.headers["location"])
        assert shown.status_code == 200
        assert shown.headers["cache-control"] == "private, no-store"
        [message] = shown.json()["messages"]
        assert (message["content"], message["status"]) == ("How much?", "waiting")
        assert shown.json()["label"] == "Sales"
        assert shown.json()["last_message"] == message


def test_a_dialogue_that_did_not_change_is_not_sent_again(anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    tag = anna.get(f"/v1/dialogues/{dialogue_id}").headers["etag"]
    assert (
        anna.get(f"/v1/dialogues/{dialogue_id}", headers={"If-None-Match": f'"x", W/{tag}'}).status_code
        == 304
    )
    assert (
        anna.patch(f"/v1/dialogues/{dialogue_id}", json={"label": "x"}, headers={"If-Match": tag}).status_code
        == 200
    )
    moved = anna.get(f"/v1/dialogues/{dialogue_id}?min_version=3", headers={"If-None-Match": tag})
    assert (moved.status_code, moved.json()["label"]) == (200, "x")


def test_a_command_is_refused_when_the_dialogue_has_moved_on(anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    refused = anna.patch(f"/v1/dialogues/{dialogue_id}", json={"label": "x"}, headers={"If-Match": '"1"'})
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (412, "PreconditionFailed")


def test_a_repeated_command_answers_as_the_first_did(anna: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    first = anna.post("/v1/dialogues", json={"message": "How much?"}, headers=key)
    again = anna.post("/v1/dialogues", content=b'{"label": null, "message": "How much?"}', headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    other = anna.post("/v1/dialogues", json={"message": "How many?"}, headers=key)
    assert (other.status_code, other.headers["x-should-retry"]) == (422, "false")
    elsewhere = anna.post(f"/v1/dialogues/{first.json()['dialogue_id']}/archive", headers=key)
    assert elsewhere.status_code == 422


def test_an_id_in_capitals_is_the_same_request(anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    key = {"Idempotency-Key": str(uuid4())}
    first = anna.post(f"/v1/dialogues/{dialogue_id}/unarchive", headers=key)
    again = anna.post(f"/v1/dialogues/{str(dialogue_id).upper()}/unarchive", headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    other, _ = ask(anna)
    assert anna.post(f"/v1/dialogues/{other}/unarchive", headers=key).status_code == 422


def test_a_dialogue_goes_away_and_comes_back(anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    path = f"/v1/dialogues/{dialogue_id}"
    for away, back, state in (("", "restore", "deleted"), ("archive", "unarchive", "archived")):
        gone = anna.post(f"{path}/{away}") if away else anna.delete(path)
        assert gone.status_code == 200
        shown = anna.get(path, params={"min_version": gone.json()["version"]}).json()
        assert shown["state"] == state
        params = {"state": state, "min_position": gone.json()["position"]}
        assert [d["id"] for d in anna.get("/v1/dialogues", params=params).json()["data"]] == [
            str(dialogue_id)
        ]
        refused = anna.post(f"{path}/messages", json={"content": "And?"})
        assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
        assert anna.post(f"{path}/{back}").status_code == 200
        assert anna.post(f"{path}/messages", json={"content": "And?"}).status_code == 202


def test_the_list_is_walked_by_cursor(api: Api) -> None:
    with api.client(f"lister {uuid4()}") as client:
        ids = [str(ask(client, f"Question {n}")[0]) for n in range(5)]
        position = client.patch(f"/v1/dialogues/{ids[0]}", json={"label": "first"}).json()["position"]
        page = client.get("/v1/dialogues", params={"limit": 2, "min_position": position}).json()
        assert page["total"] == 5
        walked = page["data"]
        while page["next"]:
            page = client.get("/v1/dialogues", params={"limit": 2, "after": page["next"]}).json()
            walked += page["data"]
        assert [d["id"] for d in walked] == [ids[0], *reversed(ids[1:])]
        assert "messages" not in walked[0]
        assert walked[0]["last_message"]["content"] == "Question 0"
        [found] = client.get("/v1/dialogues", params={"q": "question 3"}).json()["data"]
        assert found["id"] == ids[3]
        assert [d["id"] for d in client.get("/v1/dialogues?offset=4").json()["data"]] == [ids[1]]


def test_messages_are_walked_in_both_directions(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    path = f"/v1/dialogues/{asked[0]}/messages"
    several = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And?", "name": "Anna"},
    ]
    write(api, asked)
    told = anna.post(path, json={"messages": several, "temperature": 0.5})
    for order, seqs in (("asc", [1, 2, 3, 4]), ("desc", [4, 3, 2, 1])):
        params: dict[str, Any] = {"order": order, "limit": 3, "min_version": told.json()["version"]}
        page = anna.get(path, params=params).json()
        rest = anna.get(path, params={**params, "after": page["next"]}).json()
        assert rest["next"] is None
        assert [m["seq"] for m in page["data"] + rest["data"]] == seqs
    question, answer, system, last = anna.get(path).json()["data"]
    assert (question["status"], answer["reply_to"], answer["model"]) == ("answered", question["id"], "small")
    assert answer["usage"] == {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    assert "status" not in answer
    assert "status" not in system
    assert (last["id"], last["name"], last["status"]) == (told.json()["message_id"], "Anna", "waiting")


def test_a_reply_is_cancelled_and_asked_for_again(anna: httpx.Client) -> None:
    dialogue_id, message_id = ask(anna)
    path = f"/v1/dialogues/{dialogue_id}/messages/{message_id}"
    for verb, status in (
        ("cancel", "cancelled"),
        ("cancel", "cancelled"),
        ("retry", "waiting"),
        ("retry", "waiting"),
    ):
        told = anna.post(f"{path}/{verb}")
        assert told.status_code == 202
        shown = anna.get(
            f"/v1/dialogues/{dialogue_id}", params={"min_version": told.json()["version"]}
        ).json()
        assert shown["messages"][0]["status"] == status


def test_tokens_are_ones_own_or_with_ops_the_tenants(api: Api) -> None:
    tenant, since = uuid4(), {"since": "2020-01-01", "by": "user"}
    for user in ("anna", "bert"):
        with api.client(user, tenant=str(tenant)) as client:
            asked = ask(client)
            write(api, asked, tenant=tenant)
            version = client.get(f"/v1/dialogues/{asked[0]}?min_version=4").json()["version"]
            position = client.patch(f"/v1/dialogues/{asked[0]}", json={"label": "x"}).json()["position"]
            [used] = client.get("/v1/usage", params={**since, "min_position": position}).json()["data"]
            assert (used["user_id"], used["calls"], used["total_tokens"], version) == (user, 1, 17, 4)
    with api.client("olga", tenant=str(tenant), roles=["ops"]) as ops:
        assert {used["user_id"] for used in ops.get("/v1/usage", params=since).json()["data"]} == {
            "anna",
            "bert",
        }
        [all_] = ops.get("/v1/usage").json()["data"]
        assert (all_["calls"], all_["total_tokens"]) == (2, 34)


@pytest.mark.parametrize("path", ["", "/messages", "/stream"])
def test_more_than_there_is_is_refused(anna: httpx.Client, path: str) -> None:
    dialogue_id, _ = ask(anna)
    params = {"starting_after": "9.0.0.0.0.0"} if path == "/stream" else {"min_version": 9}
    refused = anna.get(f"/v1/dialogues/{dialogue_id}{path}", params=params)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, next(iter(params)))
    assert anna.get("/v1/dialogues", params={"min_position": 10**9}).status_code == 400
