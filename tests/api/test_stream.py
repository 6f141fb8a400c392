"""Streams over HTTP: word by word, ended once and only by what is committed, resumable from anywhere."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from uuid_utils.compat import uuid7

from bichat.api import conversation
from bichat.chat import parsed
from bichat.commands.reply import Call, CallFunctions, ReturnFunction
from bichat.config import Config
from bichat.deltas import Deltas, Said
from tests.api.conftest import Api, served
from tests.api.talk import Asked, Ear, ask, events, finish, kinds, words, write
from tests.api.tokens import SECRET, token
from tests.examples import TENANT, by_worker

Events = list[dict[str, Any]]
TEXT = "It is a lot."


def answer(api: Api, ear: Ear, asked: Asked) -> Events:
    """Writes the reply while `ear` hears it."""
    write(api, asked, TEXT, end="not")
    ear.until(TEXT)
    finish(api, asked, TEXT)
    return ear.out()


def test_a_reply_is_heard_word_by_word_and_ends_with_the_message(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    heard = answer(api, Ear(anna, asked), asked)
    assert kinds(heard) == ["started", "completed"]
    assert words(heard).strip() == heard[-1]["message"]["content"] == TEXT
    assert [event["sequence_number"] for event in heard] == list(range(1, len(heard) + 1))
    about = {(event["dialogue_id"], event["message_id"], event["attempt"]) for event in heard}
    assert about == {(str(asked[0]), str(asked[1]), 1)}
    assert (heard[0]["model"], heard[-1]["version"]) == ("small", 4)
    params = {"min_position": heard[-1]["position"]}
    listed = anna.get("/v1/dialogues", params=params).json()["data"][0]
    assert (listed["version"], listed["last_message"]) == (4, heard[-1]["message"])


def test_a_stream_goes_on_after_any_event(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    ear = Ear(anna, asked)
    write(api, asked, TEXT, end="not")
    late = Ear(anna, asked)
    late.until(TEXT)
    ear.until(TEXT)
    finish(api, asked, TEXT)
    heard = ear.out()
    assert [event["id"] for event in late.out()] == [event["id"] for event in heard]
    for place in (0, 2, len(heard) - 2, len(heard) - 1):
        rest = list(events(anna, asked, headers={"Last-Event-ID": heard[place]["id"]}))
        assert rest == list(events(anna, asked, params={"starting_after": heard[place]["id"]}))
        assert kinds(rest) == (["completed"] if place < len(heard) - 1 else [])
    assert kinds(list(events(anna, asked))) == ["started", "completed"]


def test_a_stream_goes_on_in_mid_reply(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    write(api, asked, TEXT, end="not")
    first: Events = []
    for event in events(anna, asked):
        first.append(event)
        if words(first) == "It is ":
            break
    rest = Ear(anna, asked, headers={"Last-Event-ID": first[-1]["id"]})
    rest.until("a lot.")
    finish(api, asked, TEXT)
    both = first + rest.out()
    assert words(both).strip() == TEXT
    assert kinds(both) == ["started", "completed"]
    assert [event["sequence_number"] for event in both] == list(range(1, len(both) + 1))


def test_words_of_an_attempt_that_is_given_up_are_taken_back(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    ear = Ear(anna, asked)
    write(api, asked, "Half a", end="not")
    ear.until("started")
    finish(api, asked, "Half a", end="again")
    ear.until("superseded")
    write(api, asked, "Another half", attempt=2, end="not")
    ear.until("started")
    write(api, asked, TEXT, attempt=3, end="not")  # the worker of the second died: the next one just starts
    ear.until("started")
    while ear.heard[-1]["attempt"] != 3:
        time.sleep(0.01)
    finish(api, asked, TEXT, attempt=3, end="failed")
    heard = ear.out()
    assert kinds(heard) == ["started", "superseded", "started", "superseded", "started", "failed"]
    assert [e["attempt"] for e in heard if e["type"] == "reply.superseded"] == [1, 2]
    assert heard[-1]["error"] == {"code": "model_cut_off", "detail": "no end"}
    assert heard[-1]["partial"] == "It is"
    resumed = list(events(anna, asked, headers={"Last-Event-ID": heard[0]["id"]}))
    assert kinds(resumed) == ["superseded", "started", "failed"]


def test_a_cancelled_reply_ends_its_stream_and_a_retry_has_its_own_end(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    ear = Ear(anna, asked)
    path = f"/v1/dialogues/{asked[0]}/messages/{asked[1]}"
    anna.post(f"{path}/cancel")
    assert kinds(ear.out()) == ["cancelled"]
    anna.post(f"{path}/retry")
    again = Ear(anna, asked, headers={"Last-Event-ID": ear.heard[-1]["id"]})
    assert kinds(answer(api, again, asked)) == ["started", "completed"]


def test_a_question_can_be_answered_with_its_stream(api: Api, anna: httpx.Client) -> None:
    key = {"Accept": "text/event-stream", "Idempotency-Key": str(uuid4())}

    def hear() -> tuple[Events, httpx.Headers]:
        with anna.stream("POST", "/v1/dialogues", json={"message": "How much?"}, headers=key) as response:
            assert response.status_code == 200
            return list(parsed(response.iter_lines())), response.headers

    with ThreadPoolExecutor() as pool:
        told = pool.submit(hear)
        same = anna.post("/v1/dialogues", json={"message": "How much?"}, headers={**key, "Accept": "*/*"})
        asked = UUID(same.json()["dialogue_id"]), UUID(same.json()["message_id"])
        answer(api, Ear(anna, asked), asked)
        heard, first = told.result(10)
    assert words(heard).strip() == heard[-1]["message"]["content"] == TEXT
    again, repeated = hear()
    assert kinds(again) == ["started", "completed"]
    assert first["location"] == f"/v1/dialogues/{asked[0]}?min_version=2" == repeated["location"]
    assert repeated["idempotent-replayed"] == "true"
    refused = anna.post("/v1/dialogues", json={"message": " "}, headers=key)
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")


def test_a_dialogue_is_followed_through_everything(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    ear = Ear(anna, asked, whole=True, last="deleted")
    write(api, asked, TEXT, end="not")
    ear.until(TEXT)
    finish(api, asked, TEXT)
    second = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": "And?"}).json()
    ear.until("message.added")
    anna.patch(f"/v1/dialogues/{asked[0]}", json={"label": "Sales"})
    ear.until("dialogue.changed")
    anna.delete(f"/v1/dialogues/{asked[0]}")
    heard = ear.out()
    happened = ["started", "completed", "message.added", "dialogue.changed", "cancelled", "dialogue.changed"]
    assert kinds(heard) == happened
    assert (heard[-1]["label"], heard[-1]["version"], heard[-1]["message_id"]) == ("Sales", 8, None)
    added = next(event for event in heard if event["type"] == "message.added")
    assert added["message"]["id"] == added["message_id"] == second["message_id"]
    assert len({event["id"] for event in heard}) == len(heard)
    resumed = Ear(anna, asked, whole=True, last="deleted", headers={"Last-Event-ID": added["id"]})
    assert kinds(resumed.out()) == ["cancelled", "dialogue.changed"]


def test_a_stream_that_is_cut_before_its_first_event_misses_nothing(anna: httpx.Client) -> None:
    asked = ask(anna)
    path = f"/v1/dialogues/{asked[0]}/stream"
    with anna.stream("GET", path) as response:
        lines = response.iter_lines()
        first = dict(line.split(": ", 1) for line in iter(lambda: next(lines), ""))
    added = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": "And?"}).json()
    resumed = Ear(anna, asked, whole=True, last="message.added", headers={"Last-Event-ID": first["id"]})
    assert resumed.out()[-1]["message_id"] == added["message_id"]


def test_the_stream_of_a_reply_that_waits_goes_on_where_it_was_cut(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    path = f"/v1/dialogues/{asked[0]}/stream"
    with anna.stream("GET", path, params={"message_id": str(asked[1])}) as response:
        lines = response.iter_lines()
        first = dict(line.split(": ", 1) for line in iter(lambda: next(lines), ""))
    write(api, asked)
    heard = list(events(anna, asked, headers={"Last-Event-ID": first["id"]}))
    assert kinds(heard) == ["started", "completed"]


def test_a_long_absence_is_made_up_for_in_pieces(anna: httpx.Client) -> None:
    asked = ask(anna)
    rules = [{"role": "system", "content": f"Rule {n}"} for n in range(99)]
    for _ in range(3):
        several = [*rules, {"role": "user", "content": "So?"}]
        told = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"messages": several})
    last, heard = told.json()["message_id"], []
    for event in events(anna, asked, whole=True, params={"starting_after": "2.0.0.0.0.0"}):
        if event["type"] == "message.added":
            heard.append(event["message"]["seq"])
        if event["message_id"] == last:
            break
    assert heard == list(range(2, 302))


def test_without_redis_the_end_of_a_reply_still_arrives(module_database_url: str) -> None:
    nowhere = "redis://127.0.0.1:9"
    config = Config(database_url=module_database_url, redis_url=nowhere, bichat_jwt_secret=SECRET)
    with served(config) as api, api.client() as client:
        asked = ask(client)
        ear = Ear(client, asked)
        write(api, asked, TEXT)
        assert kinds(ear.out())[-1] == "completed"


def test_a_silent_stream_says_that_it_lives(anna: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "BEAT", 0.1)
    asked = ask(anna)
    with anna.stream("GET", f"/v1/dialogues/{asked[0]}/stream") as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ":"


def test_a_stream_lasts_no_longer_than_its_token(anna: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "LOOK", 0.1)
    asked = ask(anna)
    headers = {"Authorization": f"Bearer {token(exp=int(time.time()) + 2)}"}
    assert list(events(anna, asked, headers=headers)) == []


def test_a_stream_of_what_is_not_there_is_a_404(anna: httpx.Client) -> None:
    asked = ask(anna)
    for path in (f"{asked[0]}/stream?message_id={uuid4()}", f"{uuid4()}/stream"):
        assert anna.get(f"/v1/dialogues/{path}").status_code == 404


def test_words_wait_for_the_function_that_returned_before_them(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    about: Any = {"dialogue_id": asked[0], "message_id": asked[1], "attempt": 1}
    ear = Ear(anna, asked)
    write(api, asked, "Well", end="not")
    ear.until("Well")

    async def look() -> None:
        deltas = Deltas(api.redis_url)
        await deltas.say(asked[0], Said(asked[1], 1, 2, "Three", after=5))  # earlier than what it comes after
        await deltas.say(asked[0], Said(asked[1], 1, 3, " of", after=5))
        calls = (Call(id=uuid7(), call_id="c1", name="query", arguments="{}"),)
        called = CallFunctions(**about, round=1, said="Well ", calls=calls)
        await api.executor.execute(called, by_worker(TENANT))
        back = ReturnFunction(**about, id=uuid7(), call_id="c1", name="query", result="[3]", failed=False)
        told = await api.executor.execute(back, by_worker(TENANT))
        assert told.version == 5
        await deltas.say(asked[0], Said(asked[1], 1, 4, " them", after=5))
        await deltas.close()

    asyncio.run(look())
    ear.until("Well Three of them")
    finish(api, asked, "Well Three of them")
    heard = [event.get("text", event["type"]) for event in ear.out()]
    expected = ["reply.started", "Well ", "tool.called", "tool.returned", "Three", " of", " them"]
    assert heard == [*expected, "reply.completed"]


def test_words_that_are_lost_are_not_passed_over(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    ear = Ear(anna, asked)
    write(api, asked, "It", end="not")
    ear.until("It")

    async def skip() -> None:
        deltas = Deltas(api.redis_url)
        await deltas.say(asked[0], Said(asked[1], 1, 3, "lot."))
        await deltas.close()

    asyncio.run(skip())
    finish(api, asked, TEXT)
    assert words(ear.out()) == "It "
    assert ear.heard[-1]["message"]["content"] == TEXT
