"""A dialogue that the read model could not digest is neither gone nor older than what was accepted."""

from __future__ import annotations

import asyncio

import httpx
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import RenameDialogue
from bichat.config import Config
from bichat.events.feed import Feed
from bichat.projections import parking
from bichat.projections.runner import connect
from tests.api.conftest import served
from tests.api.tokens import SECRET
from tests.examples import OTHER_TENANT, by, opened, start, writing
from tests.poison import damaged
from tests.projections.histories import BUILDS


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def test_a_parked_dialogue_is_for_now_not_there_and_comes_back(database_url: str, redis_url: str) -> None:
    new, renamed = uuid7(), uuid7()
    with opened(database_url) as ledger, writing(ledger) as executor:
        for one in (start(new), start(renamed)):
            asyncio.run(executor.execute(one, by()))
        asyncio.run(executor.execute(RenameDialogue(dialogue_id=renamed, label="What for"), by()))
        config = Config(database_url=database_url, redis_url=redis_url, bichat_jwt_secret=SECRET)
        with (
            damaged(database_url, (new, 1), (renamed, 3)) as repair,
            served(config) as api,
            api.client() as anna,
        ):
            for path in (f"{new}", f"{new}/messages", f"{renamed}?min_version=3", f"{new}/stream"):
                answer = anna.get(f"/v1/dialogues/{path}")
                assert refused(answer) == (503, "DialogueParked"), path
                assert answer.headers["retry-after"] == "1"
                assert "looked at" in answer.json()["detail"]
            assert anna.get(f"/v1/dialogues/{renamed}").json()["version"] == 2
            assert refused(anna.get(f"/v1/dialogues/{uuid7()}")) == (404, "NotFound")
            with api.client("bert") as bert:
                assert refused(bert.get(f"/v1/dialogues/{renamed}?min_version=3")) == (404, "NotFound")
            with api.client(tenant=str(OTHER_TENANT)) as other:
                assert refused(other.get(f"/v1/dialogues/{new}")) == (404, "NotFound")
            repair()
            with connect(database_url) as connection:
                list(parking.retry(connection, BUILDS[0], Feed(ledger.keys)))
            assert anna.get(f"/v1/dialogues/{new}").json()["message_count"] == 1
            assert anna.get(f"/v1/dialogues/{renamed}?min_version=3").json()["label"] == "What for"
