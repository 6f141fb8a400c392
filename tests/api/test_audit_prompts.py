"""The audit of prompts: who changed them, whether their chains hold, and requests made with old versions."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import httpx
import psycopg
import pytest

from bichat.events.prompt import stream_of
from bichat.prompts import newest
from tests.api.conftest import Api
from tests.api.talk import ask
from tests.api.test_audit import AUDIT, everything, start_as_workers_do


@pytest.fixture
def anna(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """A person of the tenant."""
    with api.client("anna", tenant=str(tenant)) as client:
        yield client


def change(olga: httpx.Client, text: str) -> None:
    assert olga.put("/v1/prompts/system", json={"template": text}).status_code == 200


def test_the_feed_says_who_changed_a_prompt_and_to_what(
    olga: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    change(olga, "Be brief.")
    change(olga, "Be kind.")
    assert olga.delete("/v1/prompts/system").status_code == 200
    found = [one for one in everything(carl, "/events") if one["subject"] == "prompt"]
    assert [(one["type"], one["version"], one["actor"]["id"], one["data"]) for one in found] == [
        ("PromptChanged", 1, "olga", {"name": "system", "template": "Be brief."}),
        ("PromptChanged", 2, "olga", {"name": "system", "template": "Be kind."}),
        ("PromptRemoved", 3, "olga", {"name": "system"}),
    ]
    assert {one["stream_id"] for one in found} == {str(stream_of(tenant, "system"))}
    assert found[1]["prev_hash"] == found[0]["hash"]
    assert found[0]["dialogue_id"] is None


def test_a_request_is_rebuilt_with_the_prompt_of_then(
    api: Api, anna: httpx.Client, olga: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    sent = []
    for text in ("Be brief.", "Be {{ kind }}.\n"):
        change(olga, text)
        asked = ask(anna)
        now = newest(api.executor.ledger, tenant)
        assert now.text == text
        sent.append((asked, text, start_as_workers_do(api, asked, tenant, now)))
    assert olga.delete("/v1/prompts/system").status_code == 200
    for version, (asked, text, request) in enumerate(sent, 1):
        told = carl.get(f"{AUDIT}/dialogues/{asked[0]}/messages/{asked[1]}/attempts/1")
        attempt = told.json()["attempt"]
        assert (attempt["prompt"], attempt["prompt_version"]) == ("system", version)
        assert told.json()["digest"] == "matches"
        assert told.json()["request"]["messages"][0] == {"role": "system", "content": text}
        assert request in told.content, "as it stands there, byte for byte"
        [listed] = carl.get(f"{AUDIT}/dialogues/{asked[0]}/attempts").json()["data"]
        assert listed["prompt_version"] == version


def test_a_prompt_that_was_forged_is_found_out(
    api: Api, olga: httpx.Client, carl: httpx.Client, tenant: UUID, module_database_url: str
) -> None:
    change(olga, "Be brief.")
    with api.client("anna", tenant=str(tenant)) as anna:
        asked = ask(anna)
    start_as_workers_do(api, asked, tenant, newest(api.executor.ledger, tenant))
    with psycopg.connect(module_database_url) as connection:
        done = connection.execute(
            "update bichat.stored_events set state = convert_to(replace(convert_from(state, 'UTF8'),"
            " 'brief', 'cruel'), 'UTF8') where originator_id = %s",
            (stream_of(tenant, "system"),),
        )
        assert done.rowcount == 1
    told = carl.get(f"{AUDIT}/dialogues/{asked[0]}/messages/{asked[1]}/attempts/1")
    assert told.json()["digest"] == "differs"
    with psycopg.connect(module_database_url) as connection:
        connection.execute(
            "delete from bichat.stored_events where originator_id = %s", (stream_of(tenant, "system"),)
        )
    told = carl.get(f"{AUDIT}/dialogues/{asked[0]}/messages/{asked[1]}/attempts/1")
    assert told.status_code == 409
    assert "it is not there" in told.json()["detail"]
