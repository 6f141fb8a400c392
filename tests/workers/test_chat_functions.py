"""The functions that models are offered, called as they are called."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from llmock.pytest_plugin import LLMock

from bichat.doorbell import Doorbell
from bichat.errors.functions import BadArguments, FunctionError
from bichat.model.embedders import Embedders
from bichat.projections.finding import Search
from bichat.projections.reads import Reads
from bichat.workers.function import Context, Reach
from bichat.workers.toolbox import Toolbox, found
from tests.examples import DIALOGUE, OTHER_TENANT, TENANT
from tests.workers.world import world

KNOWN = {function.name: function for function in found()}
NOON = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)


def call(name: str, reach: Reach | None = None, **arguments: object) -> Any:
    context = Context(
        tenant_id=TENANT, user_id="anna", dialogue_id=DIALOGUE, clock=lambda: NOON, room=10_000,
        reach=reach or Reach(),
    )  # fmt: skip
    return msgspec.json.decode(asyncio.run(KNOWN[name](context, msgspec.json.encode(arguments).decode())))


def test_every_function_is_found_and_says_what_it_does_and_takes() -> None:
    assert list(KNOWN) == [
        "convert_units", "current_time", "describe_table", "list_tables", "query", "similar_messages",
    ]  # fmt: skip
    for function in KNOWN.values():
        shown = msgspec.json.decode(function.schema)["function"]
        assert shown["name"] == function.name
        assert shown["description"].endswith(".")
        assert shown["parameters"]["type"] == "object"
        assert shown["parameters"]["additionalProperties"] is False
        assert "$ref" not in function.schema
        assert "title" not in shown["parameters"]


def test_a_function_is_offered_when_what_it_needs_is_there(sales_url: str) -> None:
    from bichat.analytics import Analytics

    def offered(reach: Reach) -> list[str]:
        async def names() -> list[str]:
            return [function.name for function in Toolbox(found(), reach).offered(TENANT)]

        return asyncio.run(names())

    assert offered(Reach()) == ["convert_units", "current_time"]
    assert offered(Reach(analytics=Analytics(sales_url))) == [
        "convert_units", "current_time", "describe_table", "list_tables", "query",
    ]  # fmt: skip
    away = Reach(analytics=Analytics("postgresql://127.0.0.1:1/nowhere"))
    assert "query" in offered(away), "it may be back by the time that it is called"


def test_the_time_is_told_in_any_zone() -> None:
    assert call("current_time", time_zone="America/New_York") == {
        "time": "2026-11-23T07:00:00-05:00", "time_zone": "America/New_York", "weekday": "Monday", "week": 48,
    }  # fmt: skip
    assert call("current_time")["time"] == "2026-11-23T12:00:00Z"
    for nowhere in ("Mars/Olympus", "../../etc/passwd", "/etc/passwd", "", "\x00"):
        with pytest.raises(BadArguments):
            call("current_time", time_zone=nowhere)


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "result"),
    [
        (100, "km/h", "mile / hour", 62.137),
        (20, "degC", "degF", 68),
        (1, "kWh", "MJ", 3.6),
        (2, "m^2", "cm**2", 20_000),
        (5, "gallon", "liter", 18.927),
        (1000, "kg/m^3", "g/cm^3", 1),
        (50, "1/minute", "hertz", 0.8333),
        (3, "ounce", "gram", 85.0486),
    ],
)
def test_units_are_converted(value: float, from_unit: str, to_unit: str, result: float) -> None:
    converted = call("convert_units", value=value, from_unit=from_unit, to_unit=to_unit)
    assert converted == {"value": pytest.approx(result, rel=1e-4), "unit": to_unit}


@pytest.mark.parametrize(
    "unit",
    [
        "9**9**9", "m**9**9**9", "meter ** 1000000000", "m**10", "__import__('os').system('id')", "km; id",
        "(m)", "m" * 61, "", "2 m", "nothings", "1e999", "m.magnitude", "lambda: 1", "kg\n", "°",
    ],
)  # fmt: skip
def test_what_is_no_unit_is_never_worked_out(unit: str) -> None:
    began = time.monotonic()
    for from_unit, to_unit in ((unit, "m"), ("m", unit)):
        with pytest.raises(BadArguments):
            call("convert_units", value=1, from_unit=from_unit, to_unit=to_unit)
    assert time.monotonic() - began < 5, "the first time thousands of units are loaded"


@pytest.mark.parametrize("value", [1e308, -1e308])
def test_a_value_that_is_none_any_more_is_said_to_be(value: float) -> None:
    with pytest.raises(FunctionError):
        call("convert_units", value=value, from_unit="km^9", to_unit="nm^9")


@pytest.mark.parametrize(
    "arguments",
    ["", "null", "[]", "{", '{"value": 1}', "[" * 100_000, '{"value":1,"from_unit":1,"to_unit":2}',
    '{"value":1,"from_unit":"m","to_unit":"km","why":"no"}', "\ud800"],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_told(arguments: str) -> None:
    context = Toolbox(()).context(TENANT, "anna", DIALOGUE, 1000)
    with pytest.raises(BadArguments):
        asyncio.run(KNOWN["convert_units"](context, arguments))


def test_only_ones_own_messages_of_other_dialogues_are_similar(
    database_url: str, redis_url: str, llmock: LLMock
) -> None:
    doorbell = Doorbell(redis_url)

    async def story() -> None:
        with world(database_url, redis_url, llmock.base_url(), doorbell) as live:
            here, _ = await live.ask("What about the coffee invoices?")
            await live.ask("Who pays the coffee invoices in Vienna?")
            reads = Reads(database_url, size=1)
            await reads.open()
            reach = Reach(search=Search(reads, Embedders(live.config)))

            async def similar(tenant: object, user: str) -> list[str]:
                context = Context(
                    tenant_id=tenant, user_id=user, dialogue_id=here,  # type: ignore[arg-type]
                    clock=lambda: NOON, room=1000, reach=reach,
                )  # fmt: skip
                told = await KNOWN["similar_messages"](context, '{"text": "coffee invoices", "top_k": 1}')
                return [hit["content"] for hit in msgspec.json.decode(told)]

            async with asyncio.timeout(10):
                while not await similar(TENANT, "anna"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert await similar(TENANT, "anna") == ["Who pays the coffee invoices in Vienna?"]
            assert await similar(TENANT, "ben") == []
            assert await similar(OTHER_TENANT, "anna") == []
            await reads.close()

    asyncio.run(story())
    doorbell.close()
