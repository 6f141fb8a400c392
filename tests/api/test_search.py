"""Search over HTTP: by text, by vector, one's own only, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from msgspec.structs import replace

from bichat.config import Config
from bichat.config.spending import Rate
from bichat.limits import Limits
from tests.api.conftest import Api, served
from tests.api.talk import ask, write
from tests.api.tokens import SECRET
from tests.workers.embedding import embedding


@pytest.fixture(scope="module")
def config(module_database_url: str, redis_url: str) -> Config:
    return Config(database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET)


@pytest.fixture(scope="module")
def api(config: Config) -> Iterator[Api]:
    """With the local model, and a worker for it."""
    with served(config) as running, embedding(config, running.executor.ledger):
        yield running


def found(client: httpx.Client, **asked: Any) -> list[str]:
    told = client.post("/v1/search", json=asked)
    assert told.status_code == 200, told.text
    return [hit["message"]["content"] for hit in told.json()["data"]]


def similar(client: httpx.Client, query: str) -> None:
    """Waits until what was said has vectors, as somebody would who looks again."""
    deadline = time.monotonic() + 20
    while not client.post("/v1/search", json={"query": query}).json()["similar"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_questions_and_answers_are_found(api: Api) -> None:
    with api.client("frida") as frida:
        asked = ask(frida, "How many people left us last year?")
        write(api, asked, "Fourteen employees quit, most of them in sales.")
        ask(frida, "What does the espresso machine cost?")
        position = frida.patch(f"/v1/dialogues/{asked[0]}", json={"label": "x"}).json()["position"]
        told = frida.post(
            "/v1/search", params={"min_position": position}, json={"query": "quit", "top_k": 1}
        ).json()
        [hit] = told["data"]
        assert UUID(hit["dialogue_id"]) == asked[0]
        assert hit["message"]["role"] == "assistant"
        assert hit["message"]["content"].startswith("Fourteen employees")
        assert 0 < hit["score"] <= 1
        similar(frida, "staff turnover")
        deadline = time.monotonic() + 20
        while len(found(frida, query="staff turnover")) < 3:
            assert time.monotonic() < deadline
        assert "espresso" in found(frida, query="staff turnover")[-1]
        made = frida.post("/v1/embeddings", json={"text": "price of a coffee maker"}).json()
        assert made["model"] == "local:multilingual-e5-small"
        assert len(made["embedding"]) == 384
        assert "espresso" in found(frida, embedding=made["embedding"], top_k=1)[0]
    with api.client("gustav") as gustav:
        assert found(gustav, query="staff turnover") == []
        assert found(gustav, embedding=made["embedding"]) == []
    with api.client("frida", tenant="01a00000-0000-7000-8000-0000000000ff") as other:
        assert found(other, query="quit") == []


BAD: dict[str, tuple[str, Any, str]] = {
    "nothing": ("/v1/search", {}, "query"),
    "both": ("/v1/search", {"query": "a", "embedding": [1]}, "query"),
    "empty": ("/v1/search", {"query": ""}, "query"),
    "blank": ("/v1/search", {"query": " \n"}, "query"),
    "no numbers": ("/v1/search", {"embedding": []}, "embedding"),
    "too many numbers": ("/v1/search", {"embedding": [0.1] * 16_001}, "embedding"),
    "of another size": ("/v1/search", {"embedding": [0.1] * 383}, "embedding"),
    "zeros": ("/v1/search", {"embedding": [0] * 384}, "embedding"),
    "no number": ("/v1/search", {"embedding": [None]}, "embedding[0]"),
    "a text for a number": ("/v1/search", {"embedding": ["1"]}, "embedding[0]"),
    "none of the best": ("/v1/search", {"query": "a", "top_k": 0}, "top_k"),
    "too many of the best": ("/v1/search", {"query": "a", "top_k": 101}, "top_k"),
    "half of one": ("/v1/search", {"query": "a", "top_k": 1.5}, "top_k"),
    "something else": ("/v1/search", {"query": "a", "k": 1}, "k"),
    "too long": ("/v1/search", {"query": "a" * 32_001}, "query"),
    "no text": ("/v1/embeddings", {}, "text"),
    "an empty text": ("/v1/embeddings", {"text": ""}, "text"),
    "too long a text": ("/v1/embeddings", {"text": "a" * 32_001}, "text"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_makes_no_sense_is_refused(api: Api, anna: httpx.Client, what: str) -> None:
    ask(anna, "so that there is something")
    similar(anna, "something")
    path, body, field = BAD[what]
    told = anna.post(path, json=body)
    assert told.status_code == 400, told.text
    assert [error["field"] for error in told.json()["errors"]] == [field]
    if what == "of another size":
        assert "384" in told.json()["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999", "1" + "0" * 400])
def test_numbers_that_are_none_are_refused(api: Api, anna: httpx.Client, number: str) -> None:
    ask(anna, "so that there is something")
    similar(anna, "something")
    body = '{"embedding": [' + ",".join([number] * 384) + "]}"
    told = anna.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert told.status_code == 400, told.text


@pytest.mark.parametrize(
    "text",
    ["a" * 32_000, "\ufdfa" * 3_000, "\U0001f600" * 9_000, "' & | ! :* \\ <-> ( %s {0}", "null", "ﬁ Ⅳ"],
)
def test_any_text_can_be_looked_for(api: Api, anna: httpx.Client, text: str) -> None:
    ask(anna, text)
    assert anna.post("/v1/search", json={"query": text}).status_code == 200
    deadline = time.monotonic() + 60
    while (told := anna.post("/v1/embeddings", json={"text": text})).status_code == 503:
        assert time.monotonic() < deadline, told.text  # a slow machine needs more than once the patience
    assert len(told.json()["embedding"]) == 384


def test_a_deleted_dialogue_is_not_searched_until_it_is_back(api: Api) -> None:
    with api.client("hanna") as hanna:
        dialogue_id, _ = ask(hanna, "our margin in May")
        for change, expected in (("delete", []), ("restore", ["our margin in May"])):
            path = f"/v1/dialogues/{dialogue_id}"
            told = hanna.delete(path) if change == "delete" else hanna.post(f"{path}/restore")
            params = {"min_position": told.json()["position"]}
            data = hanna.post("/v1/search", json={"query": "margin"}, params=params).json()["data"]
            assert [hit["message"]["content"] for hit in data] == expected


def test_without_pgvector_words_are_found_and_the_rest_says_why(
    api: Api, config: Config, database_url: str
) -> None:
    """The extension is not in this database, and nobody makes it."""
    with served(replace(config, database_url=database_url)) as alone, alone.client() as anna:
        ask(anna, "Umsätze in Österreich")
        deadline = time.monotonic() + 10
        while not (told := anna.post("/v1/search", json={"query": "umsatze"}).json())["data"]:
            assert time.monotonic() < deadline
        assert told["data"][0]["message"]["content"] == "Umsätze in Österreich"
        assert told["similar"] is False
        assert "vector" in told["why"]
        refused = anna.post("/v1/search", json={"embedding": [0.5] * 384})
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert "vector" in refused.json()["detail"]
        assert len(anna.post("/v1/embeddings", json={"text": "a"}).json()["embedding"]) == 384
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select from pg_extension where extname = 'vector'").fetchone() is None


def test_a_paid_model_reads_nothing_for_a_tenant_that_has_spent_its_tokens(config: Config) -> None:
    tenant = uuid4()
    paid = replace(
        config, bichat_embedding_model="paid", openai_base_url="http://127.0.0.1:9/v1",
        bichat_token_limit=Rate(1, "hour"),
    )  # fmt: skip

    async def spend() -> None:
        limits = Limits(paid)
        await limits.used(tenant, 5)
        await limits.close()

    with served(paid) as api, api.client(tenant=str(tenant)) as anna:
        assert anna.post("/v1/embeddings", json={"text": "red"}).status_code != 429
        asyncio.run(spend())
        for path, asked in (("/v1/embeddings", {"text": "red"}), ("/v1/search", {"query": "red"})):
            answer = anna.post(path, json=asked)
            assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (429, "TokensSpent")
            assert int(answer.headers["Retry-After"]) > 0
        assert anna.post("/v1/search", json={"embedding": [1.0]}).status_code != 429
    with served(replace(paid, bichat_embedding_model=None)) as api, api.client(tenant=str(tenant)) as anna:
        assert anna.post("/v1/search", json={"query": "red"}).status_code == 200
