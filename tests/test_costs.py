"""What calls cost: exact sums, models without a price, labels, and who is refused when a budget is spent."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bichat.api import allowance
from bichat.cli import bichat
from bichat.commands.dialogue import LabelDialogue
from bichat.commands.reply import CompleteReply
from bichat.config import Config
from bichat.config.spending import Budget, Rate, prices
from bichat.events.dialogue import Usage
from bichat.limits import Limits
from bichat.projections.costs import Cost, costed, total
from bichat.projections.usage import Split, Used
from tests.api.conftest import Api, served
from tests.api.tokens import SECRET
from tests.examples import MASTER_KEY, by_worker, start_reply

PRICES = prices("BICHAT_PRICES", "mini=0.40/1.60, free=0/0")


BY_MODEL: tuple[Split, ...] = ("model",)


def used(model: str, prompt: int, completion: int, user: str = "anna") -> Used:
    return Used(
        day=None, model=model, user_id=user, calls=1, prompt_tokens=prompt, completion_tokens=completion,
        total_tokens=prompt + completion,
    )  # fmt: skip


def test_sums_are_exact_and_leave_out_what_has_no_price() -> None:
    found = [used("mini", 1, 3) for _ in range(1000)] + [used("free", 10, 10), used("other", 7, 5)]
    assert total(costed(found, PRICES, BY_MODEL)) == Cost(Decimal("0.0052"), 12)
    [whole] = costed(found, PRICES, ())
    assert (whole.used.calls, whole.used.model, whole.cost) == (1002, None, Cost(Decimal("0.0052"), 12))
    assert [one.cost for one in costed(found[-2:], PRICES, BY_MODEL)] == [Cost(Decimal(0)), Cost(None, 12)]
    assert total(costed(found, None, ())) == Cost(None, 4032)
    everything = prices("BICHAT_PRICES", "mini=0.40/1.60, *=1/3")
    assert total(costed(found[-1:], everything, ())) == Cost(Decimal("0.000022"))


class Spender:
    """Has questions asked over HTTP answered and labelled, at the test's expense."""

    def __init__(self, api: Api) -> None:
        self.api, self.tenant = api, uuid4()

    def ask(self, message: str = "?", key: str | None = None) -> tuple[int, dict[str, str]]:
        with self.api.client(tenant=str(self.tenant)) as client:
            headers = {"Idempotency-Key": key} if key else {}
            answer = client.post("/v1/dialogues", json={"message": message}, headers=headers)
            return answer.status_code, answer.json() | {"retry": answer.headers.get("retry-after", "")}

    def answer(self, asked: dict[str, str], model: str, tokens: int) -> int:
        """Returns the position of the last event."""
        dialogue_id, message_id = UUID(asked["dialogue_id"]), UUID(asked["message_id"])
        spent, by = Usage(prompt_tokens=tokens, completion_tokens=tokens), by_worker(self.tenant)

        async def story() -> int:
            await self.api.executor.execute(replace(start_reply(dialogue_id, message_id), model=model), by)
            complete = CompleteReply(
                dialogue_id=dialogue_id, message_id=message_id, attempt=1, answer_id=uuid4(), content="!",
                model=model, finish_reason="stop", usage=spent,
            )  # fmt: skip
            await self.api.executor.execute(complete, by_worker(self.tenant))
            label = LabelDialogue(dialogue_id=dialogue_id, label="A label", model=model, usage=spent)
            return (await self.api.executor.execute(label, by_worker(self.tenant))).position

        return asyncio.run(story())


def test_cost_is_told_over_http_and_by_the_verb(
    module_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    config = Config(
        database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET, bichat_prices=PRICES
    )
    with served(config) as api:
        spender = Spender(api)
        _, first = spender.ask()
        spender.answer(first, "mini", 1000)
        _, second = spender.ask()
        position = spender.answer(second, "other", 500)
        with api.client(tenant=str(spender.tenant)) as client:

            def told(**params: str) -> dict[str, Any]:
                answer: dict[str, Any] = client.get(
                    "/v1/usage", params={"min_position": str(position), **params}
                ).json()
                return answer

            whole = told()
            assert (whole["cost"], whole["unpriced_tokens"], whole["unpriced_share"]) == (0.004, 2000, 0.3333)
            assert whole["data"][0]["calls"] == 4  # two answers, and a label for each
            rows = {row["model"]: row for row in told(by="model,day")["data"]}
            assert (rows["mini"]["cost"], "unpriced_tokens" in rows["mini"]) == (0.004, False)
            assert (rows["other"]["cost"], rows["other"]["unpriced_tokens"]) == (None, 2000)
            assert rows["mini"]["day"] == datetime.now(UTC).date().isoformat()
    environ = {
        "DATABASE_URL": module_database_url, "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "BICHAT_PRICES": str(PRICES), "BICHAT_DATA_DIR": str(tmp_path),
    }  # fmt: skip
    argv = ["usage", "--tenant", str(spender.tenant), "--by", "user", "--by", "model"]
    done = CliRunner().invoke(bichat, [*argv, "--json"], env=environ)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [
        {"user": "anna", "model": "mini", "calls": 2, "prompt tokens": 2000, "completion tokens": 2000,
         "cost": "0.004", "unpriced": 0},
        {"user": "anna", "model": "other", "calls": 2, "prompt tokens": 1000, "completion tokens": 1000,
         "cost": None, "unpriced": 2000},
    ]  # fmt: skip
    last = CliRunner().invoke(bichat, argv, env=environ).stdout.splitlines()[-1]
    assert last.split() == ["all", "all", "4", "3000", "3000", "0.004", "2000"]
    bare = CliRunner().invoke(bichat, argv, env=environ | {"BICHAT_PRICES": ""})
    assert "Without BICHAT_PRICES there is no cost" in bare.stderr
    none = CliRunner().invoke(bichat, [*argv, "--until", "2020-01-01"], env=environ)
    assert (none.exit_code, none.stdout) == (0, "")


def test_a_spent_budget_answers_no_more_questions_until_the_period_is_over(
    module_database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "KEPT", 0.0)
    config = Config(
        database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET,
        bichat_prices=PRICES, bichat_budget=Budget(Decimal("0.003"), "month"),
    )  # fmt: skip
    with served(config) as api:
        spender, other = Spender(api), Spender(api)
        _, asked = spender.ask(key="first")
        position = spender.answer(asked, "mini", 1000)
        with api.client(tenant=str(spender.tenant)) as client:
            assert client.get("/v1/usage", params={"min_position": position}).json()["cost"] == 0.004
            status, told = spender.ask()
            assert (status, told["type"].rpartition(":")[2]) == (429, "BudgetSpent")
            now = datetime.now(UTC)
            assert 0 < int(told["retry"]) <= 31 * 86_400
            assert (now + timedelta(seconds=int(told["retry"]) + 5)).day == 1  # when the next one has begun
            # What does not ask is done; what was asked before is told again; other tenants are as they were.
            renamed = client.patch(f"/v1/dialogues/{asked['dialogue_id']}", json={"label": "x"})
            assert renamed.status_code == 200
            again, told = spender.ask(key="first")
            assert (again, told["message_id"]) == (202, asked["message_id"])
            before = client.get("/v1/dialogues").json()["total"]
            assert spender.ask(key="second")[0] == 429
            assert client.get("/v1/dialogues").json()["total"] == before
        assert other.ask()[0] == 202


def test_tokens_that_were_used_keep_a_tenant_from_asking(module_database_url: str, redis_url: str) -> None:
    config = Config(
        database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET,
        bichat_token_limit=Rate(100, "second"),
    )  # fmt: skip
    with served(config) as api:
        spender = Spender(api)
        assert spender.ask()[0] == 202

        async def work(tokens: int) -> None:
            limits = Limits(config)  # as a worker has it, in another process
            await limits.used(spender.tenant, tokens)
            await limits.close()

        asyncio.run(work(99))
        assert spender.ask()[0] == 202
        asyncio.run(work(5000))  # more than the limit by far, and counted all the same
        status, told = spender.ask()
        assert (status, told["type"].rpartition(":")[2], told["retry"]) == (429, "TokensSpent", "1")
        time.sleep(1.1)
        assert spender.ask()[0] == 202
