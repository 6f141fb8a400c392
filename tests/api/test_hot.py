"""A dialogue that is read over and over: the same answer, from Redis, and never an old or another's one."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import UUID

import httpx
import pytest
from redis import Redis

from bichat import hot, unsaid
from bichat.projections.reads import Reads
from tests.api.conftest import Api
from tests.api.talk import ask
from tests.examples import OTHER_TENANT, TENANT


def redis(api: Api) -> Redis:
    return Redis.from_url(api.redis_url)


def kept(api: Api, dialogue_id: UUID) -> dict[bytes, bytes]:
    """The answers about it."""
    with redis(api) as connection:
        found: Any = connection.hgetall(unsaid.hot(dialogue_id))
    return {name: value for name, value in found.items() if name != b"version"}


def read(api: Api, anna: httpx.Client, dialogue_id: UUID) -> httpx.Response:
    """Reads it until the answer is kept; returns that."""
    end = time.monotonic() + 10
    while True:
        shown = anna.get(f"/v1/dialogues/{dialogue_id}")
        if any(shown.content in answer for answer in kept(api, dialogue_id).values()):
            return shown
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_kept_is_what_was_sent(api: Api, anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    first = read(api, anna, dialogue_id)
    again = anna.get(f"/v1/dialogues/{dialogue_id}")
    of_one = {name: value for name, value in first.headers.items() if name not in ("date", "x-request-id")}
    assert again.content == first.content
    assert {name: again.headers[name] for name in of_one} == of_one
    unchanged = anna.get(f"/v1/dialogues/{dialogue_id}", headers={"If-None-Match": first.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    # And that is where it comes from:
    with redis(api) as connection:
        connection.hset(unsaid.hot(dialogue_id), f"{TENANT}:anna", "9 kept")
    assert anna.get(f"/v1/dialogues/{dialogue_id}").content == b"kept"
    assert anna.get(f"/v1/dialogues/{dialogue_id}", params={"min_version": 10}).status_code == 400


def test_nothing_is_kept_of_a_replica_that_is_far_behind(
    api: Api, anna: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still have text that was erased; the mark that keeps this out does not last for ever."""
    dialogue_id, _ = ask(anna)
    with monkeypatch.context() as patch:
        patch.setattr(Reads, "replica_lag", hot.BEHIND + 1)
        for _ in range(5):
            anna.get(f"/v1/dialogues/{dialogue_id}")
        time.sleep(0.1)
        assert kept(api, dialogue_id) == {}
    read(api, anna, dialogue_id)


def test_nobody_is_told_of_an_older_version_than_asked_for(api: Api, anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    stop = threading.Event()

    def reading() -> None:
        with api.client() as other:
            while not stop.is_set():
                other.get(f"/v1/dialogues/{dialogue_id}")

    threads = [threading.Thread(target=reading, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(30):
        version = anna.patch(f"/v1/dialogues/{dialogue_id}", json={"label": f"{n}"}).json()["version"]
        shown = anna.get(f"/v1/dialogues/{dialogue_id}", params={"min_version": version}).json()
        assert (shown["label"], shown["version"]) == (f"{n}", version)
    stop.set()
    for thread in threads:
        thread.join(5)
    end = time.monotonic() + 2  # and who does not ask for a version sees it a moment later
    while anna.get(f"/v1/dialogues/{dialogue_id}").json()["version"] != version:
        assert time.monotonic() < end
    assert anna.delete(f"/v1/dialogues/{dialogue_id}").status_code == 200
    while anna.get(f"/v1/dialogues/{dialogue_id}").json()["state"] != "deleted":
        assert time.monotonic() < end + 2


def test_nobody_reaches_an_answer_that_is_not_theirs(api: Api, anna: httpx.Client) -> None:
    dialogue_id, _ = ask(anna)
    read(api, anna, dialogue_id)
    for user, tenant in (("otto", TENANT), ("anna", OTHER_TENANT)):
        with api.client(user, tenant=str(tenant)) as other:
            assert other.get(f"/v1/dialogues/{dialogue_id}").status_code == 404
    assert list(kept(api, dialogue_id)) == [f"{TENANT}:anna".encode()]


def test_erased_words_are_gone_from_it(api: Api) -> None:
    with api.client("emil") as emil, api.client("olga", roles=["ops"]) as olga:
        dialogue_id, _ = ask(emil, "My secret is Xylophon.")
        assert b"Xylophon" in read(api, emil, dialogue_id).content
        assert olga.post("/v1/ops/erasures", json={"user_id": "emil"}).status_code == 200
        assert b"Xylophon" not in emil.get(f"/v1/dialogues/{dialogue_id}").content
        assert not any(b"Xylophon" in answer for answer in kept(api, dialogue_id).values())
