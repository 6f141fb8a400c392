"""Auditors read everything of their tenant and change nothing; every reading is in the log first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.api.conftest import Api
from tests.api.talk import ask, write

AUDIT = "/v1/audit"


@pytest.fixture
def tenant() -> UUID:
    """A tenant of the test's own."""
    return uuid4()


@pytest.fixture
def anna(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """A person of the tenant."""
    with api.client("anna", tenant=str(tenant)) as client:
        yield client


@pytest.fixture
def carl(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """Who audits the tenant, and asks nothing."""
    with api.client("carl", tenant=str(tenant), roles=["auditor"]) as client:
        yield client


def read(client: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    """What an audit route shows."""
    told = client.get(f"{AUDIT}{path}", params=params)
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


def test_the_events_of_a_dialogue_say_who_and_when_and_what(
    api: Api, anna: httpx.Client, carl: httpx.Client, tenant: UUID
) -> None:
    asked = ask(anna, "How much?")
    write(api, asked, tenant=tenant)
    anna.delete(f"/v1/dialogues/{asked[0]}")
    found = read(carl, f"/dialogues/{asked[0]}/events", limit=100)
    events = found["data"]
    print(events)
    assert [e["version"] for e in events] == [1, 2, 3, 4, 5]
    print(read(carl, f"/dialogues/{asked[0]}"))
    print(read(carl, f"/dialogues/{asked[0]}/attempts"))
    print(read(carl, f"/dialogues/{asked[0]}/messages/{asked[1]}/attempts/1"))
    print(read(carl, f"/events"))
    print(read(carl, f"/events", user_id="carl", since="2020-01-01T00:00:00Z", type="AuditRead"))
