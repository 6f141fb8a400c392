"""Calls of functions, put together from what servers send; some of them send strange things."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail, Reply, ToolCall

from bichat.config import Config
from bichat.errors.model import FunctionsRefused, ModelCutOff, ModelNonsense, ModelRefused
from bichat.model import ChatMessage, ChatRequest, Chunk, Model, Named, canonical
from bichat.model import ToolCall as Called
from bichat.model.calls import LONGEST, MOST, Calls
from bichat.model.wire import CallPart

TOOL: dict[str, Any] = {
    "type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}},
}  # fmt: skip
ASKED = ChatRequest("m", (ChatMessage("user", "What time is it?"),), tools=(TOOL,))


def listen(llmock: LLMock, request: ChatRequest = ASKED) -> list[Chunk]:
    async def hear() -> list[Chunk]:
        model = Model(Config(openai_api_key="k", openai_base_url=llmock.base_url()), silence=5)
        try:
            return [chunk async for chunk in model.stream(request)]
        finally:
            await model.close()

    return asyncio.run(hear())


def together(*parts: dict[str, Any]) -> list[tuple[str, str, str]]:
    calls = Calls()
    for part in parts:
        calls.take([msgspec.convert(part, CallPart)])
    return [(call.id, call.function.name, call.function.arguments) for call in calls.whole()]


def part(
    index: int | None, id_: str | None = None, name: str | None = None, arguments: str = ""
) -> dict[str, Any]:
    return {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}


# --- over the wire ---------------------------------------------------------------------------------


def test_words_and_calls_come_in_one_answer(llmock: LLMock) -> None:
    wanted = ToolCall("now", {"zone": "Europe/Berlin"}), ToolCall("later", {})
    llmock.add(Reply(text="One moment.", tool_calls=wanted))
    chunks = listen(llmock)
    assert "".join(chunk.text for chunk in chunks) == "One moment."
    assert [chunk.calls for chunk in chunks[:-1]] == [()] * (len(chunks) - 1)
    assert [(call.function.name, call.function.arguments) for call in chunks[-1].calls] == [
        ("now", '{"zone": "Europe/Berlin"}'), ("later", "{}"),
    ]  # fmt: skip
    assert chunks[-1].finish == "tool_calls"
    assert chunks[-1].usage
    assert llmock.last_request.body["tools"] == [TOOL]


def test_calls_without_words_are_an_answer_and_neither_is_none(llmock: LLMock) -> None:
    llmock.add(Reply(tool_calls=(ToolCall("now", {}),)))
    assert listen(llmock)[-1].calls
    llmock.add(Reply(text="", finish_reason="tool_calls"))
    with pytest.raises(ModelNonsense, match="without a word"):
        listen(llmock)


def test_a_call_that_is_cut_off_is_not_made(llmock: LLMock) -> None:
    llmock.call_tool("now", {"zone": "Europe/Berlin"}).truncate(after_chunks=3)
    with pytest.raises(ModelCutOff):
        listen(llmock)


def test_calls_and_what_they_returned_are_shown_as_the_protocol_has_them(llmock: LLMock) -> None:
    messages = (
        *ASKED.messages,
        ChatMessage("assistant", "", tool_calls=(Called("c1", Named("now", "{}")),)),
        ChatMessage("tool", '"noon"', tool_call_id="c1"),
    )
    listen(llmock, ChatRequest("m", messages, tools=(TOOL,), tool_choice="none"))
    sent = llmock.last_request.body
    assert sent["messages"][1:] == [
        {
            "role": "assistant", "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        },
        {"role": "tool", "content": '"noon"', "tool_call_id": "c1"},
    ]  # fmt: skip
    assert sent["tool_choice"] == "none"


def test_a_request_without_functions_is_what_it_was_before_there_were_any() -> None:
    assert canonical(ChatRequest("m", ASKED.messages)) == (
        b'{"model":"m","messages":[{"role":"user","content":"What time is it?"}]}'
    )


@pytest.mark.parametrize(
    "told",
    [
        "m does not support tools",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "No endpoints found that support tool use.",
        "tools param requires --jinja flag",
        "Unrecognized request argument supplied: functions",
        "tools is not supported in this model. For a list of supported models, look elsewhere.",
        "Unsupported parameter: 'tools' is not supported with this model.",
        "Function calling is not enabled for models/m",
    ],
)
def test_a_refusal_because_of_functions_is_told_from_others(llmock: LLMock, told: str) -> None:
    llmock.add(Fail(400, message=told))
    with pytest.raises(FunctionsRefused):
        listen(llmock)
    llmock.add(Fail(400, message=told))
    with pytest.raises(ModelRefused):  # nothing was offered, so that cannot be it
        listen(llmock, ChatRequest("m", ASKED.messages))


@pytest.mark.parametrize(
    "told",
    [
        "The context is too long",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens"
        " (8800 in the messages, 200 in the functions). Please reduce the length of the messages.",
        "messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
        "Function calls within the context window of 4096 tokens are not supported",
        "Unsupported value: 'temperature' does not support 0.7 with this model.",
    ],
)
def test_other_refusals_that_mention_functions_are_not_theirs(llmock: LLMock, told: str) -> None:
    llmock.add(Fail(400, message=told))
    with pytest.raises(ModelRefused):
        listen(llmock)


# --- piece by piece --------------------------------------------------------------------------------


def test_pieces_are_put_together_by_index() -> None:
    assert together(
        part(0, "a", "now"), part(1, "b", "later"), part(0, None, None, "{"), part(1, None, None, "[1"),
        part(0, None, None, "}"), part(1, None, None, "]"),
    ) == [("a", "now", "{}"), ("b", "later", "[1]")]  # fmt: skip


def test_servers_that_give_every_call_the_same_index_or_none() -> None:
    whole = [("a", "now", "{}"), ("b", "later", "{}")]
    for index in (0, None):
        assert together(part(index, "a", "now", "{}"), part(index, "b", "later", "{}")) == whole
        assert (
            together(
                part(index, "a", "now"), part(index, None, None, "{}"), part(index, "b", "later"),
                part(index, None, None, "{}"),
            )
            == whole
        )  # fmt: skip


def test_servers_that_repeat_the_id_and_the_name_in_every_piece() -> None:
    assert together(part(0, "a", "now", "{"), part(0, "a", "now", "}")) == [("a", "now", "{}")]


def test_calls_get_an_id_when_they_have_none_of_their_own() -> None:
    ids = [id_ for id_, _, _ in together(
        part(0, None, "now"), part(1, "", "now"), part(2, "x y\n", "now"), part(3, "a" * 65, "now"),
        part(4, "same", "now"), part(5, "same", "now"),
    )]  # fmt: skip
    assert len(set(ids)) == 6
    assert ids[4] == "same"


def test_what_has_no_name_is_no_call() -> None:
    assert together(part(0, "a", None, "{}"), part(1, "b", "", "{}")) == []


def test_calls_without_end_are_nonsense() -> None:
    with pytest.raises(ModelNonsense):
        together(*[part(n, f"c{n}", "now") for n in range(MOST + 1)])
    with pytest.raises(ModelNonsense):
        together(*[part(0, "a", "now", "x" * 10_000)] * (LONGEST // 10_000 + 1))


PARTS = st.builds(
    part, st.one_of(st.none(), st.integers(-3, 40)), st.one_of(st.none(), st.text(max_size=80)),
    st.one_of(st.none(), st.text(max_size=80)), st.text(max_size=50),
)  # fmt: skip


@given(st.lists(PARTS, max_size=40))
def test_whatever_comes_every_call_has_a_name_and_an_id_of_its_own(parts: list[dict[str, Any]]) -> None:
    try:
        calls = together(*parts)
    except ModelNonsense:
        return
    ids = [id_ for id_, _, _ in calls]
    assert len(set(ids)) == len(ids)
    assert all(0 < len(id_) <= 64 and 0 < len(name) <= 65 for id_, name, _ in calls)
    assert "\x00" not in "".join(arguments for _, _, arguments in calls)
