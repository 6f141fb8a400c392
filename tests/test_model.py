"""The model's stream, through the real client, against a server that misbehaves in every way it knows."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail

from bichat.config import Config
from bichat.errors.model import (
    ModelCutOff,
    ModelError,
    ModelNonsense,
    ModelRefused,
    ModelSilent,
    ModelUnavailable,
)
from bichat.model import ChatMessage, ChatRequest, Chunk, Model, Tokens, canonical

ASKED = ChatRequest(model="m", messages=(ChatMessage("user", "How many orders?"),))
WORDS = "one two three four five six seven eight"


def config(base_url: str) -> Config:
    return Config(openai_api_key="sk-very-secret-key", openai_base_url=base_url)


async def hear(base_url: str, request: ChatRequest = ASKED, silence: float = 1) -> list[Chunk]:
    model = Model(config(base_url), silence=silence)
    try:
        return [chunk async for chunk in model.stream(request)]
    finally:
        await model.close()


def listen(base_url: str, request: ChatRequest = ASKED, silence: float = 1) -> tuple[str, Chunk]:
    chunks = asyncio.run(hear(base_url, request, silence))
    return "".join(chunk.text for chunk in chunks), chunks[-1]


def test_an_answer_comes_word_by_word_and_ends_with_its_usage(llmock: LLMock) -> None:
    llmock.reply(WORDS)
    chunks = asyncio.run(hear(llmock.base_url()))
    assert [chunk.text for chunk in chunks[:2]] == ["one ", "two "]
    assert "".join(chunk.text for chunk in chunks) == WORDS
    end = chunks[-1]
    assert (end.text, end.finish) == ("", "stop")
    assert end.usage
    assert end.usage.total_tokens == end.usage.prompt_tokens + end.usage.completion_tokens > 0


def test_the_server_sees_what_the_request_says_and_nothing_else(llmock: LLMock) -> None:
    messages = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hi", "Ann"))
    listen(llmock.base_url(), ChatRequest("m", messages, max_tokens=7, temperature=0.5, top_p=0.9))
    assert llmock.last_request.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "Ann"},
        ],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_canonical_bytes_are_stable() -> None:
    assert canonical(ASKED) == b'{"model":"m","messages":[{"role":"user","content":"How many orders?"}]}'


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_an_overloaded_server_is_worth_another_try_later(llmock: LLMock, status: int) -> None:
    llmock.add(Fail(status, times=None))
    with pytest.raises(ModelUnavailable, match=f"HTTP {status}"):
        listen(llmock.base_url())
    assert len(llmock.requests) == 1, "the client must not try again behind the log's back"


def test_retry_after_is_handed_on(llmock: LLMock) -> None:
    llmock.rate_limit(retry_after=7)
    with pytest.raises(ModelUnavailable) as caught:
        listen(llmock.base_url())
    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refused_request_is_not_worth_repeating(llmock: LLMock, status: int) -> None:
    llmock.fail(status)
    with pytest.raises(ModelRefused, match=f"HTTP {status}"):
        listen(llmock.base_url())


def test_a_wrong_address_is_told_as_one(llmock: LLMock) -> None:
    llmock.fail(404, message="Not Found")
    with pytest.raises(ModelRefused, match="OPENAI_BASE_URL: is it the address with its /v1"):
        listen(llmock.base_url())


def test_a_spent_quota_is_a_refusal_though_it_is_a_429(llmock: LLMock) -> None:
    llmock.fail(429, code="insufficient_quota", message="You exceeded your current quota")
    with pytest.raises(ModelRefused):
        listen(llmock.base_url())


def test_what_the_server_says_is_cut_and_holds_no_key(llmock: LLMock) -> None:
    said = (
        "Incorrect API key: sk-very-secret-key (also sk-abc***xyz, Bearer abcdefgh).\n\x1b[31m"
        + "blah " * 200
    )
    llmock.fail(401, message=said)
    with pytest.raises(ModelRefused) as caught:
        listen(llmock.base_url())
    told = str(caught.value)
    assert "secret" not in told
    assert "sk-abc" not in told
    assert "abcdefgh" not in told
    assert "\x1b" not in told
    assert "\n" not in told
    assert len(told) < 400


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_dropped_connection_is_a_cut(llmock: LLMock, after: int) -> None:
    llmock.reply(WORDS).disconnect(after_chunks=after)
    with pytest.raises(ModelCutOff):
        listen(llmock.base_url())


def test_a_stream_that_ends_without_a_finish_reason_is_a_cut(llmock: LLMock) -> None:
    llmock.reply(WORDS).truncate(after_chunks=4)
    with pytest.raises(ModelCutOff, match="finish_reason"):
        listen(llmock.base_url())


def test_a_chunk_that_is_not_json_is_nonsense(llmock: LLMock) -> None:
    llmock.reply(WORDS).corrupt(after_chunks=4)
    with pytest.raises(ModelNonsense):
        listen(llmock.base_url())


def test_silence_in_the_middle_ends_the_call(llmock: LLMock) -> None:
    llmock.reply(WORDS).stall(after_chunks=3, seconds=2)
    began = time.monotonic()
    with pytest.raises(ModelSilent, match=r"0\.3 s"):
        listen(llmock.base_url(), silence=0.3)
    assert time.monotonic() - began < 5


def test_silence_before_the_first_word_ends_the_call(llmock: LLMock) -> None:
    llmock.slow_first_token(2)
    with pytest.raises(ModelSilent):
        listen(llmock.base_url(), silence=0.3)


def test_a_server_that_takes_its_time_before_the_headers_is_silent_too(llmock: LLMock) -> None:
    llmock.delay(2)
    with pytest.raises(ModelSilent):
        listen(llmock.base_url(), silence=0.3)


def test_a_slow_first_word_is_waited_for(llmock: LLMock) -> None:
    llmock.reply(WORDS).slow_first_token(0.5)
    assert listen(llmock.base_url(), silence=5)[0] == WORDS


def test_nobody_listening_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ModelUnavailable):
            listen(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")


def test_without_a_model_nothing_leaves_this_machine(monkeypatch: pytest.MonkeyPatch, llmock: LLMock) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", llmock.base_url())

    async def story() -> None:
        model = Model(Config())
        with pytest.raises(ModelRefused, match="OPENAI_API_KEY or OPENAI_BASE_URL"):
            await anext(model.stream(ASKED))
        await model.close()

    asyncio.run(story())
    assert llmock.requests == []


def test_giving_up_listening_closes_the_connection(llmock: LLMock) -> None:
    llmock.reply(WORDS).pace(50)

    async def two_words() -> None:
        model = Model(config(llmock.base_url()))
        stream = model.stream(ASKED)
        async for chunk in stream:
            if chunk.text == "two ":
                break
        await stream.aclose()
        await model.close()

    asyncio.run(two_words())
    assert len(llmock.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_nobody_else_is_asked(llmock: LLMock, status: int) -> None:
    told = f"HTTP/1.1 {status} Moved\r\nLocation: {llmock.base_url()}/chat/completions\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{told}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            await hear(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")

    llmock.reply(WORDS)
    with pytest.raises(ModelRefused, match=f"HTTP {status}: it redirects"):
        asyncio.run(story())
    assert llmock.requests == []


# --- what llmock does not know: a server that answers with whatever bytes it is given -------------


def told(*lines: str, usage: str = "") -> bytes:
    return "".join(f"data: {line}\n\n" for line in (*lines, usage, "[DONE]") if line).encode()


def word(text: str, finish: str = "null") -> str:
    return f'{{"choices": [{{"index": 0, "delta": {{"content": {text}}}, "finish_reason": {finish}}}]}}'


def listen_to(body: bytes, longest: float = 900, silence: float = 1) -> tuple[str, Chunk]:
    """The answer of a server that sends `body` to the first caller and then keeps the line open."""

    held: list[asyncio.StreamWriter] = []  # a writer that nobody holds is closed

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body)
        await writer.drain()
        if b"[DONE]" in body:
            writer.close()

    async def both() -> tuple[str, Chunk]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        model = Model(config(f"http://127.0.0.1:{port}/v1"), silence=silence, longest=longest)
        try:
            chunks = [chunk async for chunk in model.stream(ASKED)]
        finally:
            await model.close()
            server.close()
        return "".join(chunk.text for chunk in chunks), chunks[-1]

    return asyncio.run(both())


def test_control_characters_are_dropped_and_split_surrogates_cannot_break_the_log() -> None:
    text, _ = listen_to(told(word(r'"a\u0000b\u001b[1m\n\ud83d"'), word(r'"\ud83d\ude00 \u0416"', '"stop"')))
    assert text == "ab[1m\n\ufffd😀 Ж"
    text.encode()


@pytest.mark.parametrize(
    "chunk",
    [
        "5",
        "[]",
        "null",
        '"x"',
        '{"choices": 7}',
        '{"choices": [0]}',
        '{"choices": [{"delta": 0}]}',
        word("7"),
    ],
)
def test_a_chunk_of_another_shape_is_nonsense(chunk: str) -> None:
    with pytest.raises((ModelNonsense, ModelCutOff)):
        listen_to(told(word('"a"'), chunk, word('"b"', '"stop"')))


def test_bytes_that_are_not_text_are_nonsense() -> None:
    with pytest.raises(ModelNonsense):
        listen_to(b"data: \xff\xfe\n\n" + told(word('"b"', '"stop"')))


def test_an_empty_answer_is_not_an_answer() -> None:
    with pytest.raises(ModelNonsense, match=r"\(stop\) without a word"):
        listen_to(told(word('""', '"stop"')))


def test_usage_that_the_server_never_sends_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bichat.model.chat.AFTER_FINISH", 0.2)
    body = told(word('"whole"', '"stop"')).replace(b"data: [DONE]\n\n", b"")
    assert listen_to(body) == ("whole", Chunk(finish="stop"))


def test_a_line_that_breaks_after_the_end_does_not_matter() -> None:
    assert listen_to(told(word('"whole"', '"stop"'), "{nonsense"))[1].finish == "stop"


def test_usage_may_come_with_the_last_word() -> None:
    body = (
        word('"x"', '"stop"')[:-1]
        + ', "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}'
    )
    assert listen_to(told(body))[1].usage == Tokens(3, 1, 4)


@pytest.mark.parametrize(
    ("code", "kind"), [("429", ModelUnavailable), ("400", ModelRefused), ('"x"', ModelUnavailable)]
)
def test_an_error_in_the_middle_of_the_stream_is_told(code: str, kind: type[ModelError]) -> None:
    with pytest.raises(kind, match="too hot"):
        listen_to(told(word('"a"'), f'{{"error": {{"message": "too hot", "code": {code}}}}}'))


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bichat.model.chat.LONGEST_ANSWER", 1000)
    text, end = listen_to(told(*[word('"blah "')] * 5000))
    assert (len(text), end.finish) == (1000, "length")


def test_an_answer_that_drips_for_ever_is_cut() -> None:
    body = told(word('"a"')).replace(b"data: [DONE]\n\n", b"")
    with pytest.raises(ModelCutOff, match=r"no end after 0\.3 s"):
        listen_to(body, longest=0.3, silence=5)


@pytest.mark.parametrize("body", [b"data: " + b"x" * 2_000_000, told(*[word('""')] * 20_000)])
def test_a_response_without_measure_is_nonsense(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr("bichat.model.wire.LONGEST_LINE", 1_000_000)
    monkeypatch.setattr("bichat.model.wire.LONGEST_RESPONSE", 1_000_000)
    with pytest.raises(ModelNonsense, match="too much"):
        listen_to(body)


def test_a_page_instead_of_a_stream_is_a_cut() -> None:
    with pytest.raises(ModelCutOff):
        listen_to(b"<html><body>Welcome to the proxy</body></html>\n[DONE]")
