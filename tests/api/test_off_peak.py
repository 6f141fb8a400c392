"""Over HTTP: what is asked for the quiet hours, and the labels that the model gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from msgspec.structs import replace

from bichat.commands.dialogue import LabelDialogue
from bichat.config import Config
from bichat.config.off_peak import OffPeak
from bichat.projections.standing import FRESH
from tests.api.conftest import Api, served
from tests.api.talk import Ear, ask, write
from tests.api.tokens import SECRET
from tests.examples import USAGE, by_worker
from tests.page.visitor import Page, Visitor, until

NIGHT = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=6)


@pytest.fixture(scope="module")
def api(module_database_url: str, redis_url: str) -> Iterator[Api]:
    """One where the night begins in six hours, and lasts for one."""
    window = OffPeak(NIGHT.time(), (NIGHT + timedelta(hours=1)).time())
    config = Config(
        database_url=module_database_url,
        redis_url=redis_url,
        bichat_jwt_secret=SECRET,
        bichat_off_peak=window,
    )
    with served(config) as running:
        yield running


@pytest.fixture(scope="module")
def olga(api: Api) -> Iterator[httpx.Client]:
    """Who keeps the tenant well."""
    with api.client("olga", roles=["ops", "operator"]) as client:
        yield client


def later(anna: httpx.Client, dialogue_id: UUID, **more: Any) -> dict[str, Any]:
    """Asks for the night."""
    body = {"content": "And in detail?", "schedule": "off_peak", **more}
    told = anna.post(f"/v1/dialogues/{dialogue_id}/messages", json=body)
    assert told.status_code == 202, told.text
    found: dict[str, Any] = told.json()
    return found


def test_a_question_for_the_night_waits_and_ops_see_until_when(
    api: Api, anna: httpx.Client, olga: httpx.Client
) -> None:
    first = ask(anna)
    write(api, first)
    asked = later(anna, first[0])
    now = anna.post(f"/v1/dialogues/{first[0]}/messages", json={"content": "Briefly?"}).json()
    shown = anna.get(f"/v1/dialogues/{first[0]}", params={"min_version": now["version"]}).json()
    assert {m["id"]: m["status"] for m in shown["messages"] if m["role"] == "user"} == {
        str(first[1]): "answered", asked["message_id"]: "waiting", now["message_id"]: "waiting",
    }  # fmt: skip
    page = olga.get("/v1/ops/replies", params={"min_position": now["position"]}).json()["data"]
    found = {one["message_id"]: (one["state"], one["off_peak"], one["waits_until"]) for one in page}
    assert found.pop(now["message_id"]) == ("waiting", False, None)
    (state, off_peak, until) = found.pop(asked["message_id"])
    assert (state, off_peak) == ("waiting", True)
    assert datetime.fromisoformat(until) == NIGHT


def test_a_dialogue_may_begin_with_a_question_for_the_night(anna: httpx.Client, olga: httpx.Client) -> None:
    body = {"message": "All of it, please", "schedule": "off_peak"}
    asked = anna.post("/v1/dialogues", json=body).json()
    page = olga.get("/v1/ops/replies", params={"min_position": asked["position"]}).json()["data"]
    assert {one["message_id"]: one["off_peak"] for one in page}[asked["message_id"]] is True
    assert anna.post("/v1/dialogues", json=body | {"schedule": "never"}).status_code == 400


def test_the_page_says_that_a_question_waits_for_the_night(api: Api) -> None:
    with api.client("nora") as nora:
        first = ask(nora)
        write(api, first)
        asked = later(nora, first[0])
    with closing(Visitor(api, "nora")) as visitor:
        path = f"/bi-chat/{first[0]}"
        for at in (path, f"{path}/messages/{asked['message_id']}?version={asked['version']}"):
            page = Page(visitor.get(at).text)
            window = f"{NIGHT:%H:%M}\u2013{NIGHT + timedelta(hours=1):%H:%M} UTC"
            assert page.texts("p", class_="hint") == [f"Waits for the quiet hours ({window})"]
            assert not page.all("span", class_="dots") + page.all("article", **{"aria-busy": "true"})
        until(lambda: "waits for the quiet hours" in visitor.get("/bi-chat").text)


def test_what_waits_for_the_night_is_no_queue_that_grows_old(
    api: Api, anna: httpx.Client, olga: httpx.Client
) -> None:
    def series() -> dict[str, float]:
        lines = [line for line in olga.get("/metrics").text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    dialogue_id, _ = ask(anna)
    asked = later(anna, dialogue_id)
    anna.get(f"/v1/dialogues/{dialogue_id}", params={"min_version": asked["version"]})
    olga.get("/v1/ops/replies", params={"min_position": asked["position"]})
    time.sleep(FRESH)
    before = series()
    later(anna, dialogue_id)
    olga.get("/v1/ops/replies", params={"min_position": asked["position"] + 1})
    time.sleep(FRESH + 0.1)
    after = series()
    assert after['bichat_questions{status="waiting"}'] == before['bichat_questions{status="waiting"}']
    assert after['bichat_questions{status="off_peak"}'] == before['bichat_questions{status="off_peak"}'] + 1


def test_a_label_by_the_model_is_told_to_who_follows_the_dialogue(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    write(api, asked)
    ear = Ear(anna, asked, whole=True, last="dialogue.changed")
    label = LabelDialogue(dialogue_id=asked[0], label="Sales in May", model="small", usage=USAGE)
    outcome = asyncio.run(api.executor.execute(label, by_worker()))
    changed = ear.out()[-1]
    assert (changed["type"], changed["label"], changed["state"]) == (
        "dialogue.changed",
        "Sales in May",
        "active",
    )
    listed = anna.get("/v1/dialogues", params={"min_position": outcome.position}).json()["data"]
    assert {one["id"]: one["label"] for one in listed}[str(asked[0])] == "Sales in May"
    again = asyncio.run(api.executor.execute(replace(label, label="Other"), by_worker()))
    assert again.version == outcome.version
