"""A model that calls functions: every call and return is in the log before it goes on, and it ends well."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from uuid import UUID

import httpx
import msgspec
import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail, Match, Reply, behavior_from_dict

from bichat.deltas import Deltas
from bichat.doorbell import Doorbell
from bichat.events.dialogue import (
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyFailed,
    ReplyStarted,
)
from bichat.events.envelope import Fact
from bichat.events.function import FunctionDescribed, stream_of
from bichat.model import canonical
from bichat.shown import ROUNDS, following, rebuild
from bichat.workers.calling import MOST
from bichat.workers.rounds import BETWEEN
from bichat.workers.toolbox import UNKNOWN
from tests.examples import TENANT
from tests.workers.functions import calls, of_calls, query, results, toolbox
from tests.workers.world import World, worker, world

REVENUE = "select region, sum(revenue) as revenue from sales group by region order by revenue desc"


def started(live: World, dialogue_id: UUID, message_id: UUID) -> ReplyStarted:
    found = [fact for fact in live.replies(dialogue_id, message_id) if isinstance(fact, ReplyStarted)]
    return found[-1]


def prompt_tokens(llmock: LLMock) -> list[int]:
    """What the server counts for each of the requests that it got, when they are sent again."""
    bodies = [request.body | {"stream": False} for request in llmock.requests]
    url = f"{llmock.base_url()}/chat/completions"
    for body in bodies:
        del body["stream_options"]
    return [httpx.post(url, json=body).json()["usage"]["prompt_tokens"] for body in bodies]


def error(returned: FunctionReturned) -> str:
    assert returned.failed
    told = msgspec.json.decode(returned.result or "", type=dict[str, object])
    return str(told["error"])


def test_a_question_about_the_sales_is_answered_in_four_rounds(
    live: World, llmock: LLMock, sales_url: str
) -> None:
    llmock.add(
        calls(("list_tables", {})),
        calls(("describe_table", {"table": "sales"}), ("describe_table", {"table": "regions"})),
        calls(query(REVENUE), text="Let me add that up."),
        Reply(text="Central sold most."),
    )

    async def story() -> None:
        deltas = Deltas(live.config.redis_url or "")
        async with worker(live, toolbox=toolbox(sales_url)):
            dialogue_id, message_id = await live.ask("Which region sold most?")
            answer = await live.answer(dialogue_id, message_id)
            said = await deltas.replay(dialogue_id, message_id, 1)
        await deltas.close()
        assert answer.content == f"Let me add that up.{BETWEEN}Central sold most."
        assert "".join(one.text for one in said) == answer.content
        facts = live.facts(dialogue_id)
        happened = [(type(fact).__name__, getattr(fact, "name", "")) for fact in facts[2:]]
        both = ("FunctionCalled", "describe_table"), ("FunctionReturned", "describe_table")
        assert happened == [
            ("ReplyStarted", ""), ("FunctionCalled", "list_tables"), ("FunctionReturned", "list_tables"),
            both[0], both[0], both[1], both[1], ("FunctionCalled", "query"), ("FunctionReturned", "query"),
            ("MessageAdded", ""),
        ]  # fmt: skip
        made = [fact for fact in facts if isinstance(fact, FunctionCalled)]
        assert [(call.round, call.said) for call in made] == [
            (1, ""), (2, ""), (2, ""), (3, "Let me add that up."),
        ]  # fmt: skip
        assert not any(returned.failed for returned in results(facts))
        found = msgspec.json.decode(results(facts)[-1].result or "")
        assert found["columns"] == ["region", "revenue"]
        assert len(found["rows"]) == 5
        assert answer.answers
        assert len(llmock.requests) == 4
        assert answer.answers.usage.prompt_tokens == sum(prompt_tokens(llmock)), "of all rounds"

    asyncio.run(story())


@pytest.mark.parametrize(("scenario", "failed"), [("which_region", 0), ("hostile", 6)])
def test_the_scenarios_that_can_be_repeated_by_hand(
    live: World, llmock: LLMock, sales_url: str, scenario: str, failed: int
) -> None:
    """`llmock serve`, `POST /_llmock/scenario` with one of these, and a question to `bichat serve`."""
    script = json.loads((Path(__file__).parents[1] / "scenarios" / f"{scenario}.json").read_text())
    llmock.add(*map(behavior_from_dict, script["behaviors"]))

    async def story() -> None:
        async with worker(live, toolbox=toolbox(sales_url, seconds=1)):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == script["behaviors"][-1]["text"]
        assert sum(returned.failed for returned in results(live.facts(dialogue_id))) == failed

    asyncio.run(story())


def test_the_log_can_show_what_the_model_saw_in_every_round(
    live: World, llmock: LLMock, sales_url: str
) -> None:
    llmock.add(
        calls(("list_tables", {}), ("current_time", {"time_zone": "Europe/Berlin"}), text="One moment."),
        calls(query(REVENUE)),
        Reply(text="Central."),
    )

    async def story() -> None:
        async with worker(live, toolbox=toolbox(sales_url)):
            dialogue_id, message_id = await live.ask("Which region?")
            await live.answer(dialogue_id, message_id)
        begun = started(live, dialogue_id, message_id)
        first = rebuild(live.ledger, dialogue_id, 2, begun)
        event = live.ledger.read(dialogue_id)[1]
        key = live.ledger.keys.person(event.tenant_id, "anna")
        assert begun.request_digest == key.digest("request", canonical(first)).hex()
        facts: list[Fact] = list(of_calls(live.facts(dialogue_id)))
        for number, request in enumerate(llmock.requests):
            before = [fact for fact in facts if _round(fact, facts) <= number]
            body = msgspec.json.decode(canonical(following(first, before)))
            assert {name: request.body.get(name) for name in body} == body
            assert "tool_choice" not in body
        offered = [tool["function"]["name"] for tool in body["tools"]]
        assert offered[:5] == ["convert_units", "current_time", "describe_table", "list_tables", "query"]

    def _round(fact: Fact, facts: list[Fact]) -> int:
        call_id = getattr(fact, "call_id", "")
        return next(f.round for f in facts if isinstance(f, FunctionCalled) and f.call_id == call_id)

    asyncio.run(story())


def test_what_is_offered_is_described_once_to_a_tenant(live: World, llmock: LLMock) -> None:
    llmock.tool_mode("off")

    async def story() -> None:
        for _ in range(2):  # the second worker does not know what the first has described
            async with worker(live, toolbox=toolbox()):
                for _ in range(2):
                    dialogue_id, message_id = await live.ask()
                    await live.answer(dialogue_id, message_id)
        offered = started(live, dialogue_id, message_id).shown.functions
        assert len(offered) == 5
        for digest in offered:
            [event] = live.ledger.read(stream_of(TENANT, digest))
            assert isinstance(event.fact, FunctionDescribed)
            assert event.tenant_id == TENANT
            assert event.fact.name in event.fact.schema

    asyncio.run(story())


def test_what_goes_wrong_is_told_to_the_model_and_not_what_was_secret(
    live: World, llmock: LLMock, sales_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    llmock.add(
        calls(("current_time", {})),  # its arguments are what is broken below
        calls(("broken", {}), ("endless", {}), ("slow", {}), ("convert_units", {"value": "much"})),
        calls(("shell", {"command": "id"}), query("select revenu from sales"), ("query", {"sql": 5})),
    )
    llmock.break_tool_call("malformed_arguments")

    async def story() -> None:
        async with worker(live, toolbox=toolbox(sales_url, longest=0.3)):
            dialogue_id, message_id = await live.ask("How much?")
            await live.answer(dialogue_id, message_id)
        facts = live.facts(dialogue_id)
        told = [error(returned) for returned in results(facts)]
        expected = (
            "not JSON", "calling it again will not help", "its result is too long", "longer than 0.3 s",
            "Expected `float`", "no such function", 'column "revenu"', "Expected `str`",
        )  # fmt: skip
        assert len(told) == len(expected)
        for part, whole in zip(expected, told, strict=True):
            assert part.lower() in whole.lower()
        made = [fact.name for fact in facts if isinstance(fact, FunctionCalled)]
        assert made[5] == UNKNOWN, "a name is not sealed, so the log has none that a model made up"
        assert '"hint"' in (results(facts)[6].result or "")

    asyncio.run(story())
    assert "Xylophon" not in caplog.text
    assert "broken" in caplog.text


def test_more_calls_than_are_made_at_once_all_get_an_answer(live: World, llmock: LLMock) -> None:
    llmock.add(calls(*[("current_time", {})] * (MOST + 3)), Reply(text="Done."))

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            await live.answer(dialogue_id, message_id)
        returned = results(live.facts(dialogue_id))
        assert [one.failed for one in returned] == [False] * MOST + [True] * 3
        assert len({one.call_id for one in returned}) == MOST + 3
        assert "at most" in error(returned[-1])

    asyncio.run(story())


def test_a_model_that_only_calls_is_stopped_and_not_asked_again(live: World, llmock: LLMock) -> None:
    llmock.add(calls(("current_time", {}), times=None))

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            failed = await live.until(dialogue_id, message_id, ReplyFailed)
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("rounds_exhausted", True)
        assert failed.usage.prompt_tokens > 0
        assert len(results(live.facts(dialogue_id))) == ROUNDS - 1
        choices = [request.body.get("tool_choice") for request in llmock.requests]
        assert choices == [None] * (ROUNDS - 1) + ["none"]
        assert llmock.last_request.body["tools"]

    asyncio.run(story())


def test_words_beside_calls_in_the_last_round_are_the_answer(live: World, llmock: LLMock) -> None:
    llmock.add(calls(("current_time", {}), text="Thinking.", times=None))

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == BETWEEN.join(["Thinking."] * ROUNDS)

    asyncio.run(story())


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_calls_count_however_the_round_is_said_to_have_ended(
    live: World, llmock: LLMock, finish: str
) -> None:
    called = calls(("current_time", {}))
    llmock.add(Reply(tool_calls=called.tool_calls, finish_reason=finish), Reply(text="Noon."))

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == "Noon."
        assert len(results(live.facts(dialogue_id))) == 1

    asyncio.run(story())


def test_a_model_that_was_offered_nothing_may_call_nothing(live: World, llmock: LLMock) -> None:
    llmock.add(calls(("query", {"sql": "select 1"})), Reply(text="Well."))

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == "Well."
        failed = live.replies(dialogue_id, message_id)[1]
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, of_calls(live.facts(dialogue_id))) == ("model_nonsense", [])
        assert all("tools" not in request.body for request in llmock.requests)

    asyncio.run(story())


def test_a_server_that_takes_no_functions_is_asked_without(live: World, llmock: LLMock) -> None:
    told = "registry/first does not support tools"
    llmock.add(Fail(400, message=told, match=Match(tools=True), times=None))

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            began = time.monotonic()
            await live.answer(dialogue_id, message_id)
            assert time.monotonic() - began < 5
            happened = live.replies(dialogue_id, message_id)
            assert [type(fact) for fact in happened] == [
                ReplyStarted,
                ReplyFailed,
                ReplyStarted,
                MessageAdded,
            ]
            assert isinstance(happened[1], ReplyFailed)
            assert happened[1].code == "functions_refused"
            assert told in (happened[1].detail or "")
            (again,) = await live.ask_more(dialogue_id, "And now?")
            await live.answer(dialogue_id, again)
            assert len(live.replies(dialogue_id, again)) == 2, "it is known by now"
            assert started(live, dialogue_id, again).shown.functions == ()

    asyncio.run(story())


@pytest.mark.parametrize(
    "asked",
    [(500, "How much?"), (1600, "word " * 1400)],
    ids=["a small context", "a long question"],
)
def test_describing_functions_never_takes_the_room_of_the_question(
    database_url: str, redis_url: str, llmock: LLMock, doorbell: Doorbell, asked: tuple[int, str]
) -> None:
    context_tokens, question = asked

    async def story(live: World) -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask(question)
            await live.answer(dialogue_id, message_id)
        assert started(live, dialogue_id, message_id).shown.functions == ()

    url = llmock.base_url()
    with world(database_url, redis_url, url, doorbell, bichat_context_tokens=context_tokens) as live:
        asyncio.run(story(live))
