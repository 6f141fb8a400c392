"""Whatever people, models and databases write is shown, and does nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from bichat.api.page.cards import card
from bichat.api.page.markdown import html
from bichat.commands.reply import Call, CallFunctions, ReturnFunction
from bichat.events.transcript import Message
from tests.api.conftest import Api
from tests.api.talk import ask, execute, finish, write
from tests.examples import NOON
from tests.page.visitor import Page, Visitor, until

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    '" onfocus="alert(1)" autofocus="',
    "' onmouseover='alert(1)",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<form action=https://evil.example><input name=token>",
    "<style>*{background:url(https://evil.example)}</style>",
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content=0;url=https://evil.example>",
    "<!--><script>alert(1)</script-->",
    "{{ 7 * 7 }}{% include 'x' %}",
]
MARKDOWN = [
    *HOSTILE,
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](vbscript:x) [x](data:text/html;base64,PHNjcmlwdD4=) [x](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "![x](https://a.example/pixel.png)",
    '[x](https://a.example "\' onclick=alert(1)")',
    "[x]: javascript:alert(1)\n[x]",
    "`<script>alert(1)</script>`\n\n```html onload=alert(1)\n<script>alert(1)</script>\n```",
    "|<script>alert(1)</script>|\n|:-:|\n|<img src=x onerror=alert(1)>|",
    "# <script>alert(1)</script>",
]
OURS = {
    "a", "article", "body", "button", "caption", "code", "del", "details", "div", "em", "form", "h1", "h2",
    "h3", "h4", "h5", "h6", "head", "header", "html", "i", "input", "kbd", "label", "li", "link", "main",
    "meta", "nav", "noscript", "ol", "p", "path", "pre", "rect", "circle", "blockquote", "s",
    "script", "span", "strong", "summary", "svg", "table", "tbody", "td", "textarea", "th",
    "thead", "time", "title", "tr", "ul", "br", "hr",
}  # fmt: skip


def harmless(text: str) -> Page:
    """The page, once it is sure that nothing in it is a stranger's."""
    page = Page(text)
    for element in page.elements:
        names = set(element.attributes)
        assert element.tag in OURS, element
        assert not [name for name in names if name.startswith("on") or name in ("style", "srcdoc")], element
        assert element.attributes.get("http-equiv") in (None, "refresh"), element
        address = element.attributes.get("href") or element.attributes.get("action") or ""
        assert address.startswith(("/bi-chat", "#", "https://a.example", "mailto:")) or not address, element
    assert [e.attributes for e in page.all("script")] in (
        [],
        [{"type": "module", "src": "/bi-chat/static/page.js"}],
    )
    assert [e.attributes["content"] for e in page.all("meta", **{"http-equiv": "refresh"})] in ([], ["4"])
    return page


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_can_do_no_harm(text: str) -> None:
    harmless(html(text))


def test_markdown_is_markdown() -> None:
    page = Page(html("# Sales\n\n**up** [see](https://a.example)\n\n|a|b|\n|--|--:|\n|1|2|"))
    assert page.texts("h3") == ["Sales"]  # below the headings of the page
    assert page.texts("strong") == ["up"]
    [link] = page.all("a")
    assert (link.attributes["href"], link.attributes["target"]) == ("https://a.example", "_blank")
    assert set((link.attributes["rel"] or "").split()) == {"noopener", "noreferrer", "nofollow"}
    assert page.texts("th", scope="col") == ["a", "b"]
    assert page.texts("td", class_="right") == ["2"]
    assert page.all("div", class_="scroll")


@pytest.mark.parametrize("piece", ["[", "*a ", "`", "> ", "![", "- ", "|a|\n|-|\n", "<", "_a*", "(((", "1. "])
def test_no_text_keeps_the_server_busy(piece: str) -> None:
    # A minute's work would end this test: pytest has a time limit of its own.
    assert html(piece * (32_000 // len(piece)))


@pytest.fixture(scope="module")
def everywhere(api: Api) -> tuple[UUID, httpx.Client]:
    """A dialogue with hostile text wherever text can be."""
    text = " ".join(HOSTILE)
    client = api.client()
    asked = ask(client, text)
    client.patch(f"/v1/dialogues/{asked[0]}", json={"label": text[:255]})
    write(api, asked, end="not")
    about: dict[str, Any] = {"dialogue_id": asked[0], "message_id": asked[1], "attempt": 1}
    results = [text, json.dumps({"columns": [text, text], "rows": [[text, 1]], "truncated": True})]
    for n, result in enumerate([*results, json.dumps(text)]):
        names: dict[str, Any] = {"call_id": f'{n}" onclick="alert(1)', "name": text[:60]}
        call = Call(id=uuid7(), arguments=json.dumps({"sql": text}), **names)
        asyncio.run(execute(api, CallFunctions(**about, round=n + 1, said=text, calls=(call,))))
        returned = ReturnFunction(**about, id=uuid7(), result=result, failed=n == 2, **names)
        asyncio.run(execute(api, returned))
    finish(api, asked, "\n\n".join(MARKDOWN))
    failing = client.post(f"/v1/dialogues/{asked[0]}/messages", json={"content": text}).json()
    finish_badly = (asked[0], UUID(failing["message_id"]))
    write(api, finish_badly, text, end="failed")
    return asked[0], client


def test_hostile_text_is_shown_everywhere_and_runs_nowhere(
    api: Api, anna: Visitor, everywhere: tuple[UUID, httpx.Client]
) -> None:
    dialogue_id, client = everywhere
    for address in (
        f"/bi-chat/{dialogue_id}", "/bi-chat",
        f"/bi-chat?q={HOSTILE[0]}", f"/bi-chat/{dialogue_id}?q={HOSTILE[5]}",
    ):  # fmt: skip
        page = harmless(anna.get(address).text)
        assert any("<script>alert(1)</script>" in name for name in page.texts("span", class_="name"))
    page = harmless(anna.get(f"/bi-chat/{dialogue_id}").text)
    assert [" ".join(HOSTILE)] == page.texts("p", class_="typed")[:1]
    assert len(page.all("details", class_="card")) == 3
    assert page.texts("td")[:2] == [" ".join(HOSTILE), "1"]
    assert page.texts("caption") == ["1 row, and more that were not read"]
    client.delete(f"/v1/dialogues/{dialogue_id}")
    harmless(anna.get(f"/bi-chat?undo={dialogue_id}").text)
    client.post(f"/v1/dialogues/{dialogue_id}/restore")


DEEP = "[" * 400 + "1" + "]" * 400
ODD = [
    "", "[" * 50_000, '{"a":' * 50_000, "[" * 3_000 + "]" * 3_000, DEEP, json.dumps({"a": "[" * 50_000}),
    r'{"sql": "\ud800"}', r'{"\ud800": 1, "b": 2}', r'["\udfff\ud83d"]', r'"\ud800"', r'{"error": "\ud800"}',
    r'{"error": ["\ud800"]}', '{"error": ' + "[" * 990 + "]" * 990 + "}", "1" * 10_000, "NaN",
    *('{"columns": ["a"], "rows": [[' + "[" * n + "]" * n + "]]}" for n in (50, 900, 3_000)),
    r'{"columns": ["\ud800"], "rows": [["\ud800"]]}', r'{"columns": ["a"], "rows": [[["\ud83d"]]]}',
    '{"columns": [], "rows": [[], []]}', '{"columns": ["a"], "rows": []}',
]  # fmt: skip
"""What a model may ask, and more than a function may return: not JSON, too deep, or no text."""


@pytest.mark.parametrize("some", [ODD[::2], ODD[1::2]])
def test_odd_arguments_and_results_are_shown(api: Api, anna: Visitor, some: list[str]) -> None:
    client = api.client()
    asked = ask(client, "Odd?")
    write(api, asked, end="not")
    about: dict[str, Any] = {"dialogue_id": asked[0], "message_id": asked[1], "attempt": 1}
    for n, odd in enumerate(some):
        names: dict[str, Any] = {"call_id": f"odd{n}", "name": "query_data"}
        call = Call(id=uuid7(), arguments=odd, **names)
        asyncio.run(execute(api, CallFunctions(**about, round=n + 1, said="", calls=(call,))))
        asyncio.run(
            execute(api, ReturnFunction(**about, id=uuid7(), result=odd or "0", failed=False, **names))
        )
    finish(api, asked, "Odd.")
    path = f"/bi-chat/{asked[0]}"
    until(lambda: len(harmless(anna.get(path).text).all("details", class_="card")) == len(some))


@pytest.mark.parametrize("form", ["{}", '{"error": {}}', '{"columns": ["a"], "rows": [[{}]]}'])
def test_however_deep_it_is_it_is_shown(form: str) -> None:
    """Where the reader of JSON gives up is not where its writer does."""
    for depth in range(1, 1_100, 61):
        odd = form.replace("{}", "[" * depth + "]" * depth)
        about: dict[str, Any] = {"id": uuid7(), "seq": 2, "version": 3, "role": "tool", "at": NOON}
        call = Message(**about, content="", name="f", call_id="1", arguments=odd)
        made = card(call, Message(**about, content=odd, name="f", call_id="1"))
        assert made.asked
        assert made.text or (made.table and made.table.shown[0][0])


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_refused_is_said_back_harmlessly(anna: Visitor, text: str) -> None:
    refused = anna.post("/bi-chat/new", data={"csrf": "wrong", "message": text})
    assert refused.status_code == 403
    assert harmless(refused.text).texts("textarea", name="message") == [text]
    for address in (
        f"/bi-chat?after={text}",
        f"/bi-chat?undo={text[:40]}",
        f"/bi-chat/{text.replace('/', '')}",
    ):
        harmless(anna.get(address).text)
    anna.cookies.clear()
    gone = anna.post("/bi-chat/new", data={"message": text})
    assert harmless(gone.text).texts("textarea", name="text") == [text]
