"""Auditors check a dialogue and take an export of it that proves itself; every reading is recorded first."""

from __future__ import annotations

import io
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from bichat.audit import offline
from bichat.events.proof.signing import Signer
from tests.api.conftest import Api
from tests.api.talk import ask, write
from tests.api.test_refusals import check


@pytest.fixture
def url(module_database_url: str) -> str:
    """The API's database."""
    return module_database_url


@pytest.fixture
def anna(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """A person of the tenant."""
    with api.client("anna", tenant=str(tenant)) as client:
        yield client


def proof(dialogue_id: UUID, what: str = "verify") -> str:
    return f"/v1/audit/dialogues/{dialogue_id}/{what}"


def test_a_dialogue_is_checked_and_sealed_by_its_export(
    api: Api, tenant: UUID, anna: httpx.Client, carl: httpx.Client
) -> None:
    asked = ask(anna)
    write(api, asked, tenant=tenant)
    before = carl.get(proof(asked[0])).json()
    events = carl.get(f"/v1/audit/dialogues/{asked[0]}/events").json()["data"]
    assert before == {
        "valid": True, "events": 4, "head_hash": events[-1]["hash"], "sealed_version": 0, "seal": None,
        "checked": 1,
    }  # fmt: skip
    told = carl.get(proof(asked[0], "export"))
    assert told.status_code == 200
    assert told.headers["content-type"].startswith("application/x-ndjson")
    assert told.headers["cache-control"] == "private, no-store"
    known = Signer(api.executor.ledger.keys).remembered().public_keys
    proven = offline.check(io.BytesIO(told.content), known)
    assert (proven.events, proven.withheld, proven.head_hash) == (4, 0, before["head_hash"])
    after = carl.get(proof(asked[0])).json()
    assert (after["valid"], after["sealed_version"]) == (True, 4)
    assert after["seal"]["number"] == proven.seal.number
    assert after["seal"]["root"] == proven.seal.root.hex()


def test_what_was_touched_is_named(url: str, anna: httpx.Client, carl: httpx.Client) -> None:
    asked = ask(anna)
    carl.get(proof(asked[0], "export"))
    with psycopg.connect(url) as connection:
        connection.execute(
            "delete from bichat.stored_events where (originator_id, originator_version) = (%s, 2)",
            (asked[0],),
        )
    told = carl.get(proof(asked[0])).json()
    assert (told["valid"], told["events"], told["first_bad_version"]) == (False, 1, 2)
    assert told["reason"].startswith("truncated: version 2 is missing at the end, sealed by seal ")
    with psycopg.connect(url) as connection:
        connection.execute("delete from bichat.stored_events where originator_id = %s", (asked[0],))
    told = carl.get(proof(asked[0])).json()
    assert (told["valid"], told["events"], told["first_bad_version"]) == (False, 0, 1)
    assert told["reason"].startswith("dialogue removed: ")


def test_both_are_recorded_before_they_read(
    url: str, tenant: UUID, anna: httpx.Client, carl: httpx.Client
) -> None:
    asked, nowhere = ask(anna), uuid4()
    assert carl.get(proof(asked[0])).status_code == 200
    assert carl.get(proof(asked[0], "export")).status_code == 200
    check(carl.get(proof(nowhere)), 404)
    readings = [event["data"] for event in carl.get("/v1/audit/events?type=AuditRead").json()["data"]]
    assert [(one["what"], one["dialogue_id"]) for one in readings[:3]] == [
        ("verify", str(asked[0])), ("export", str(asked[0])), ("verify", str(nowhere)),
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["verify", "export"])
def test_another_tenants_dialogue_is_as_little_there_as_none(api: Api, anna: httpx.Client, what: str) -> None:
    asked, nowhere = ask(anna), uuid4()
    with api.client("carl", tenant=str(uuid4()), roles=["auditor"]) as stranger:
        theirs, none = (check(stranger.get(proof(i, what)), 404).text for i in (asked[0], nowhere))
        assert theirs.replace(str(asked[0]), "") == none.replace(str(nowhere), "")
    for roles in (["user"], ["ops"], ["operator"]):
        with api.client("carl", roles=roles) as client:
            check(client.get(proof(asked[0], what)), 403)
    check(httpx.get(api.url + proof(asked[0], what)), 401)
