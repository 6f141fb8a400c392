"""Streams over HTTP: word by word, ended once and only by what is committed, resumable from anywhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from bichat.api import stream
from bichat.chat import parsed
from bichat.config import Config
from tests.api.conftest import Api, served
from tests.api.talk import Asked, ask, events, finish, kinds, words, write
from tests.api.tokens import SECRET, token

Events = list[dict[str, Any]]
TEXT = "It is a lot."


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def listen(pool: ThreadPoolExecutor, client: httpx.Client, asked: Asked, **options: Any) -> Future[Events]:
    """Hears a question's stream to its end, in a thread; returns once it is connected."""
    connected = threading.Event()

    def hear() -> Events:
        heard: Events = []
        params = {"message_id": str(asked[1])}
        with client.stream("GET", f"/v1/dialogues/{asked[0]}/stream", params=params, **options) as response:
            connected.set()
            heard.extend(parsed(response.iter_lines()))
        return heard

    told = pool.submit(hear)
    assert connected.wait(5)
    return told


def test_a_reply_is_heard_word_by_word_and_ends_with_the_message(
    api: Api, anna: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    asked = ask(anna)
    told = listen(pool, anna, asked)
    write(api, asked, TEXT)
    heard = told.result(10)
    assert kinds(heard) == ["started", "completed"]
    assert words(heard).strip() == heard[-1]["message"]["content"] == TEXT
    assert [event["sequence_number"] for event in heard] == list(range(1, len(heard) + 1))
    assert {(e["dialogue_id"], e["message_id"], e["attempt"]) for e in heard} == {
        (str(asked[0]), str(asked[1]), 1)
    }
    assert (heard[0]["model"], heard[-1]["version"]) == ("small", 4)
    position = heard[-1]["position"]
    listed = anna.get("/v1/dialogues", params={"min_position": position}).json()["data"][0]
    assert (listed["version"], listed["last_message"]) == (4, heard[-1]["message"])


def test_a_stream_goes_on_after_any_event(api: Api, anna: httpx.Client, pool: ThreadPoolExecutor) -> None:
    asked = ask(anna)
    told = listen(pool, anna, asked)
    write(api, asked, TEXT, end="not")
    late = listen(pool, anna, asked)
    time.sleep(0.2)
    finish(api, asked, TEXT)
    heard = told.result(10)
    assert [e["id"] for e in late.result(10)] == [e["id"] for e in heard]
    for place in (0, 2, len(heard) - 2, len(heard) - 1):
        rest = list(events(anna, asked, headers={"Last-Event-ID": heard[place]["id"]}))
        assert rest == list(events(anna, asked, params={"starting_after": heard[place]["id"]}))
        assert kinds(rest) == (["completed"] if place < len(heard) - 1 else [])
    assert kinds(list(events(anna, asked))) == ["completed"]


def test_a_stream_goes_on_in_mid_reply(api: Api, anna: httpx.Client, pool: ThreadPoolExecutor) -> None:
    asked = ask(anna)
    write(api, asked, TEXT, end="not")
    first: Events = []
    for event in events(anna, asked):
        first.append(event)
        if words(first) == "It is ":
            break
    rest = listen(pool, anna, asked, headers={"Last-Event-ID": first[-1]["id"]})
    time.sleep(0.2)
    finish(api, asked, TEXT)
    assert words(first + rest.result(10)).strip() == TEXT
    assert kinds(first + rest.result()) == ["started", "completed"]
    numbers = [event["sequence_number"] for event in first + rest.result()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_words_of_an_attempt_that_is_given_up_are_taken_back(
    api: Api, anna: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    asked = ask(anna)
    told = listen(pool, anna, asked)
    write(api, asked, "Half a", end="again")
    time.sleep(0.2)
    write(api, asked, "Another half", attempt=2, end="not")
    time.sleep(0.2)
    write(api, asked, TEXT, attempt=3, end="failed")  # its worker died: the next one just starts
    heard = told.result(10)
    assert kinds(heard) == ["started", "superseded", "started", "superseded", "started", "failed"]
    assert [e["attempt"] for e in heard if e["type"] == "reply.superseded"] == [1, 2]
    assert heard[-1]["error"] == {"code": "model_cut_off", "detail": "no end"}
    assert heard[-1]["partial"] == "It is"
    resumed = list(events(anna, asked, headers={"Last-Event-ID": heard[1]["id"]}))
    assert kinds(resumed) == ["superseded", "failed"]


def test_a_cancelled_reply_ends_its_stream_and_a_retry_has_its_own_end(
    api: Api, anna: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    asked = ask(anna)
    told = listen(pool, anna, asked)
    path = f"/v1/dialogues/{asked[0]}/messages/{asked[1]}"
    anna.post(f"{path}/cancel")
    assert kinds(told.result(10)) == ["cancelled"]
    anna.post(f"{path}/retry")
    again = listen(pool, anna, asked, headers={"Last-Event-ID": told.result()[-1]["id"]})
    write(api, asked, TEXT)
    assert kinds(again.result(10)) == ["started", "completed"]


def test_a_question_can_be_answered_with_its_stream(
    api: Api, anna: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    headers = {"Accept": "text/event-stream", "Idempotency-Key": str(uuid4())}

    def hear() -> tuple[Events, httpx.Headers]:
        with anna.stream("POST", "/v1/dialogues", json={"message": "How much?"}, headers=headers) as response:
            assert response.status_code == 200
            return list(parsed(response.iter_lines())), response.headers

    told = pool.submit(hear)
    same = anna.post("/v1/dialogues", json={"message": "How much?"}, headers={**headers, "Accept": "*/*"})
    asked = UUID(same.json()["dialogue_id"]), UUID(same.json()["message_id"])
    write(api, asked, TEXT)
    (heard, first), (again, repeated) = told.result(10), hear()
    assert kinds(heard) == ["started", "completed"]
    assert kinds(again) == ["completed"]
    assert first["location"] == f"/v1/dialogues/{asked[0]}?min_version=2" == repeated["location"]
    assert repeated["idempotent-replayed"] == "true"
    refused = anna.post("/v1/dialogues", json={"message": " "}, headers=headers)
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")


def test_a_dialogue_is_followed_through_everything(
    api: Api, anna: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    asked = ask(anna)
    told, connected = Future[Events](), threading.Event()

    def follow() -> None:
        heard: Events = []
        with anna.stream("GET", f"/v1/dialogues/{asked[0]}/stream") as response:
            connected.set()
            for event in parsed(response.iter_lines()):
                heard.append(event)
                if event.get("state") == "deleted":
                    return told.set_result(heard)
        return told.set_result(heard)

    pool.submit(follow)
    assert connected.wait(5)
    write(api, asked, TEXT)
    second = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": "And?"}).json()
    anna.patch(f"/v1/dialogues/{asked[0]}", json={"label": "Sales"})
    anna.delete(f"/v1/dialogues/{asked[0]}")
    heard = told.result(10)
    happened = kinds(heard)
    assert [kind for kind in happened if kind != "dialogue.changed"] == [
        "started",
        "completed",
        "message.added",
        "cancelled",
    ]
    assert happened.count("dialogue.changed") in (1, 2)  # told as it is, not each step
    assert (heard[-1]["label"], heard[-1]["version"], heard[-1]["message_id"]) == ("Sales", 8, None)
    added = next(event for event in heard if event["type"] == "message.added")
    assert added["message"]["id"] == added["message_id"] == second["message_id"]
    ids = [event["id"] for event in heard]
    assert len(ids) == len(set(ids))
    resumed: Events = []
    for event in events(anna, asked, whole=True, headers={"Last-Event-ID": added["id"]}):
        resumed.append(event)
        if event.get("state") == "deleted":
            break
    assert kinds(resumed) == ["cancelled", "dialogue.changed"]


def test_without_redis_the_end_of_a_reply_still_arrives(module_database_url: str) -> None:
    config = Config(
        database_url=module_database_url, redis_url="redis://127.0.0.1:9", bichat_jwt_secret=SECRET
    )
    with served(config) as api, api.client() as client, ThreadPoolExecutor() as pool:
        asked = ask(client)
        told = listen(pool, client, asked)
        write(api, asked, TEXT)
        assert kinds(told.result(15))[-1] == "completed"


def test_a_silent_stream_says_that_it_lives(anna: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT", 0.1)
    asked = ask(anna)
    with anna.stream("GET", f"/v1/dialogues/{asked[0]}/stream") as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ":"


def test_a_stream_lasts_no_longer_than_its_token(
    api: Api, anna: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.1)
    asked = ask(anna)
    headers = {"Authorization": f"Bearer {token(exp=int(time.time()) + 2)}"}
    assert list(events(anna, asked, headers=headers)) == []


def test_a_stream_of_what_is_not_there_is_a_404(anna: httpx.Client) -> None:
    asked = ask(anna)
    for path in (f"{asked[0]}/stream?message_id={uuid4()}", f"{uuid4()}/stream"):
        assert anna.get(f"/v1/dialogues/{path}").status_code == 404


def test_a_long_absence_is_made_up_for_in_pieces(anna: httpx.Client) -> None:
    asked = ask(anna)
    several = [{"role": "system", "content": f"Rule {n}"} for n in range(99)] + [
        {"role": "user", "content": "So?"}
    ]
    for _ in range(3):
        told = anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"messages": several})
    last, heard = told.json()["message_id"], []
    for event in events(anna, asked, whole=True, params={"starting_after": "2.0.0.0.0.0"}):
        if event["type"] == "message.added":
            heard.append(event["message"]["seq"])
        if event["message_id"] == last:
            break
    assert heard == list(range(2, 302))
