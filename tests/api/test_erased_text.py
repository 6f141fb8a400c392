"""What a client sees of a dialogue whose person was forgotten: nulls, at once and everywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import httpx
import psycopg

from bichat.commands.dialogue import EraseText, RenameDialogue
from bichat.config import Config
from bichat.deltas import Deltas
from bichat.events.envelope import Actor
from bichat.forgetting.erasing import Forgetting
from tests.api.conftest import Api, served
from tests.api.talk import Asked, Ear, ask, events, finish, kinds, words, write
from tests.api.tokens import SECRET
from tests.examples import TENANT, by, opened, start, writing
from tests.poison import damaged

SECRET_TEXT = "My secret is Xylophon."


def erase(api: Api, dialogue_id: UUID) -> int:
    """As ops; returns the dialogue's version."""
    return asyncio.run(api.executor.execute(EraseText(dialogue_id=dialogue_id), by("olga"))).version


async def forget(api: Api, user: str) -> None:
    deltas = Deltas(api.redis_url)
    await Forgetting(api.executor, deltas).forget(TENANT, user, Actor("user", "olga"))
    await deltas.close()


def forget_words(api: Api, dialogue_id: UUID) -> None:
    async def story() -> None:
        deltas = Deltas(api.redis_url)
        assert await deltas.forget([dialogue_id])
        await deltas.close()

    asyncio.run(story())


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_dialogue_reads_anew_with_nulls(api: Api, anna: httpx.Client) -> None:
    told = anna.post("/v1/dialogues", json={"message": SECRET_TEXT, "label": "Xylophon"}).json()
    path, asked = (
        f"/v1/dialogues/{told['dialogue_id']}",
        (UUID(told["dialogue_id"]), UUID(told["message_id"])),
    )
    write(api, asked, "So Xylophon it is.")
    note = {"role": "system", "content": "Xylophon is a secret", "name": "Xylophon"}
    anna.post(f"{path}/messages", json={"messages": [note, {"role": "user", "content": "Xylophon?"}]})
    before = anna.get(f"{path}?min_version=6")
    tag = {"If-None-Match": before.headers["etag"]}
    assert anna.get(path, headers=tag).status_code == 304
    version = erase(api, asked[0])
    after = anna.get(f"{path}?min_version={version}", headers=tag)
    assert after.status_code == 200
    assert after.headers["etag"] != before.headers["etag"]
    shown = after.json()
    assert (shown["label"], shown["last_message"]["content"]) == (None, None)
    assert [(m["role"], m["content"], m.get("name", "")) for m in shown["messages"]] == [
        ("user", None, ""), ("assistant", None, ""), ("system", None, None), ("user", None, ""),
    ]  # fmt: skip
    assert shown["messages"][-1]["status"] == "cancelled"
    assert "Xylophon" not in anna.get(f"{path}/messages").text
    position = anna.get(f"{path}/messages", params={"limit": 1})
    assert position.json()["data"][0]["content"] is None
    until(lambda: anna.get("/v1/dialogues", params={"q": "Xylophon"}).json()["data"] == [])
    listed = anna.get("/v1/dialogues").json()["data"][0]
    assert (listed["id"], listed["label"], listed["last_message"]["content"]) == (
        told["dialogue_id"],
        None,
        None,
    )
    assert anna.get(path, headers={"If-None-Match": after.headers["etag"]}).status_code == 304
    anna.post(f"{path}/messages", json={"content": "Something new"})
    new = anna.get(f"{path}?min_version={version + 1}").json()
    assert [m["content"] for m in new["messages"]] == [None] * 4 + ["Something new"]


def test_an_open_stream_is_told_and_an_old_one_gives_no_text(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna, SECRET_TEXT)  # without a label: nothing in the dialogue's face changes
    ear = Ear(anna, asked, whole=True, last="dialogue.changed")
    write(api, asked, "So Xylophon it is.")
    ear.until("completed")
    version = erase(api, asked[0])
    heard = ear.out()
    assert kinds(heard) == ["started", "completed", "dialogue.changed"]
    assert (heard[-1]["version"], heard[-1]["label"]) == (version, "")
    anna.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": "New."})
    anna.get(f"/v1/dialogues/{asked[0]}?min_version={version + 1}")
    for event in heard[:-1]:
        old = Ear(anna, asked, whole=True, last="dialogue.changed", headers={"Last-Event-ID": event["id"]})
        told = old.out()
        assert "Xylophon" not in str(told)
        assert kinds(told)[-2:] == ["message.added", "dialogue.changed"]
    again = Ear(anna, asked, whole=True, last="dialogue.changed", headers={"Last-Event-ID": heard[-1]["id"]})
    again.until("message.added")
    time.sleep(0.3)
    assert kinds(again.heard) == ["message.added"], "what was told is not told again"
    anna.patch(f"/v1/dialogues/{asked[0]}", json={"label": "ends it"})
    again.out()


def test_a_running_reply_ends_and_its_words_are_not_replayed(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna, SECRET_TEXT)
    ear = Ear(anna, asked)
    write(api, asked, "So Xylophon", end="not")
    ear.until("So Xylophon")
    erase(api, asked[0])
    heard = ear.out()
    assert kinds(heard) == ["started", "cancelled"]
    assert not heard[-1]["partial"]
    forget_words(api, asked[0])
    for event in heard:
        assert words(list(events(anna, asked, headers={"Last-Event-ID": event["id"]}))) == ""
    assert kinds(list(events(anna, asked))) == ["cancelled"]
    assert anna.post(f"/v1/dialogues/{asked[0]}/messages/{asked[1]}/retry").status_code == 409


def test_a_failure_is_told_without_its_words(api: Api, anna: httpx.Client) -> None:
    asked: Asked = ask(anna, SECRET_TEXT)
    write(api, asked, "Xylophon it is", end="not")
    finish(api, asked, "Xylophon it is", end="failed")
    assert "Xylop" in str(list(events(anna, asked))), "its words, or what is left of them when it is over"
    version = erase(api, asked[0])
    anna.get(f"/v1/dialogues/{asked[0]}?min_version={version}")
    forget_words(api, asked[0])
    heard = list(events(anna, asked))
    assert kinds(heard) == ["started", "failed"]
    assert heard[-1]["error"] == {"code": "model_cut_off", "detail": None}
    assert heard[-1]["partial"] is None


def test_a_parked_dialogue_is_blank_and_is_not_called_unchanged(database_url: str, redis_url: str) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:
        command = start()
        asyncio.run(executor.execute(command, by()))
        asyncio.run(executor.execute(RenameDialogue(dialogue_id=command.dialogue_id, label="New"), by()))
        config = Config(database_url=database_url, redis_url=redis_url, bichat_jwt_secret=SECRET)
        path = f"/v1/dialogues/{command.dialogue_id}"
        with (
            damaged(database_url, (command.dialogue_id, 3)),
            served(config) as api,
            api.client() as anna,
        ):
            until(lambda: _parked(database_url))
            before = anna.get(path)
            assert before.json()["label"] == "Sales"
            asyncio.run(forget(api, "anna"))  # the dialogue cannot be told
            tag = {"If-None-Match": before.headers["etag"]}
            until(lambda: anna.get(path, headers=tag).status_code == 200)
            after = anna.get(path, headers=tag).json()
            assert (after["version"], after["label"]) == (2, None)
            assert [m["content"] for m in after["messages"]] == [None]


def _parked(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute("select 1 from bichat.parked where name = 'transcripts'").fetchone()
        return row is not None
