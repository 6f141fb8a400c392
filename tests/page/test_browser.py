"""The page in a real browser, before a real installation: what people see, hear and press."""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from llmock.pytest_plugin import LLMock
from playwright.sync_api import Browser, Page, expect

from tests.api.tokens import SECRET, token
from tests.examples import MASTER_KEY
from tests.page.stage import Console, answering, chromium
from tests.test_story import free_port, process

WORDS = [f"word{n}" for n in range(400)]
ENDLESS = " ".join(WORDS)
"""At the pace of the tests it takes longer than they do: somebody has to stop it."""
LONG, LAST = " ".join(WORDS[:80]), WORDS[79]
SQL = "select region, sum(revenue) as revenue, count(*) as lines from sales group by region order by region"
PHONE = {"width": 360, "height": 640}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def environment(
    module_database_url: str, redis_url: str, sales_url: str, llmock_server: Any
) -> dict[str, str]:
    """What the processes of the installation are told."""
    return {
        **os.environ,
        "DATABASE_URL": module_database_url,
        "REDIS_URL": redis_url,
        "ANALYTICS_DATABASE_URL": sales_url,
        "OPENAI_BASE_URL": LLMock(llmock_server).base_url(),
        "OPENAI_API_KEY": "a key",
        "BICHAT_MODEL": "small",
        "BICHAT_AUTO_LABEL": "off",
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "BICHAT_JWT_SECRET": SECRET,
        "BICHAT_PORT": free_port(),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests; each has profiles of its own."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(browser: Browser, environment: dict[str, str]) -> Iterator[str]:
    """Where the page is, once everything runs."""
    with ExitStack() as stack:
        for part in ("projector", "worker", "api"):
            stack.enter_context(process(part, environment))
        answering(at := f"http://127.0.0.1:{environment['BICHAT_PORT']}", "ready")
        yield f"{at}/bi-chat"


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Open]:
    """Opens the page for a new person, signed in; in the end nothing may have been complained about."""
    consoles: list[Console] = []
    with ExitStack() as stack:

        def open_page(at: str = url, **options: Any) -> Page:
            given = options.pop("given", "") or token(f"person {secrets.token_hex(4)}")
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            consoles.append(Console(page))
            page.goto(f"{at}#token={given}")
            assert "#" not in page.url  # nobody who looks at the screen or the history reads it
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("heading", name="What would you like to know?")).to_be_attached()
            page.wait_for_load_state()  # before its script is there, Enter sends nothing
            return page

        yield open_page
        assert [line for console in consoles for line in console.complaints] == []


def test_the_link_signs_in_a_tab_that_shows_the_page_already(browser: Browser, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.goto(f"{url}#token={token('somebody')}")  # the fragment alone changes: nothing is loaded
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_attached()
    page.evaluate("location.hash = 'token=another'")
    expect(page).not_to_have_url(re.compile("token"))
    context.close()


def ask(page: Page, question: str) -> None:
    page.get_by_role("textbox", name=re.compile("Ask")).fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".typed").last).to_have_text(question)


def said(page: Page) -> str:
    """The words of the reply being written."""
    return page.locator(".words").last.inner_text()


def hear(page: Page, words: int) -> str:
    """What there is to read once so many words are."""
    expect(page.locator(".words").last).to_contain_text(WORDS[words - 1])
    return said(page)


def test_an_answer_is_written_before_ones_eyes_and_survives_a_reload(opened: Open, llmock: LLMock) -> None:
    llmock.reply(f"{LONG} **at last**").pace(50)
    page = opened()
    ask(page, "How were sales?")
    before = hear(page, 5)
    assert LAST not in before  # it is there in part
    expect(page.get_by_role("status")).to_be_empty()  # a screen reader does not hear every word
    page.reload()
    after = hear(page, 12)
    assert after.startswith(before)
    assert after.split() == WORDS[: len(after.split()) - 1] + after.split()[-1:]
    second = page.context.new_page()
    second.goto(page.url)
    for tab in (page, second):
        expect(tab.locator(".answer strong")).to_have_text("at last")
        expect(tab.locator(".answer")).to_have_text(f"{LONG} at last")  # each word once
        expect(tab.locator(".turn")).to_have_count(1)
        expect(tab.get_by_role("status")).to_contain_text("The answer: word0 word1")
    # What is asked in one tab is there in the other.
    llmock.reset().reply("Fine.")
    ask(page, "And now?")
    expect(second.locator(".typed").last).to_have_text("And now?")
    expect(second.locator(".answer").last).to_have_text("Fine.")
    expect(second.locator(".turn")).to_have_count(2)


def test_an_answer_survives_a_server_that_is_started_again(
    opened: Open, llmock: LLMock, environment: dict[str, str]
) -> None:
    llmock.reply(LONG).pace(50)
    other = {**environment, "BICHAT_PORT": free_port()}
    at = f"http://127.0.0.1:{other['BICHAT_PORT']}"
    with process("api", other):
        answering(at, "live")
        page = opened(f"{at}/bi-chat")
        ask(page, "How were sales?")
        before = hear(page, 5)
    with process("api", other):
        answering(at, "live")
        expect(page.locator(".answer")).to_have_text(LONG)
        assert before in LONG
        expect(page.locator("#trouble")).to_be_hidden()


def test_a_reply_is_stopped_and_asked_for_again(opened: Open, llmock: LLMock) -> None:
    llmock.reply(ENDLESS).pace(60)
    page = opened()
    ask(page, "How were sales?")
    hear(page, 3)
    page.keyboard.press("Escape")
    expect(page.locator(".hint")).to_have_text("Stopped.")
    expect(page.locator(".partial")).to_contain_text("word0 word1")
    expect(page.get_by_role("textbox", name="Ask on")).to_be_focused()
    llmock.reset().fail(400, message="no such luck")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".hint")).to_contain_text("There is no answer")
    llmock.reset().reply("Fine.").slow_first_token(0.5)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.locator(".answer")).to_have_text("Fine.")
    expect(page.locator(".turn")).to_have_count(1)


def test_a_function_is_a_card_and_a_query_a_table(opened: Open, llmock: LLMock) -> None:
    llmock.call_tool("query", {"sql": SQL})
    llmock.call_tool("query", {"sql": "delete from orders"})
    llmock.reply(LONG).pace(30)
    page = opened()
    ask(page, "How much did each region bring?")
    card = page.locator(".card").first
    card.get_by_text("query").click()
    expect(card.locator("pre")).to_have_text(SQL)
    table = card.get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_text(["region", "revenue", "lines"])
    rows = table.locator("tbody tr").count()
    assert rows > 1
    expect(table.locator("caption")).to_have_text(f"{rows} rows")
    refused = page.locator(".card.failed")
    expect(refused).to_contain_text("failed")
    expect(page.locator(".answer")).to_have_text(LONG)
    expect(table).to_be_visible()  # it is still open: what was read while the answer came stays
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    assert overflow(page) == 0


def test_dialogues_are_named_found_put_away_and_brought_back(opened: Open, llmock: LLMock) -> None:
    llmock.reply("Fine.", times=9)
    page = opened()
    for question in ("How is coffee doing?", "How is tea doing?"):
        page.get_by_role("link", name="New").click()
        ask(page, question)
        expect(page.locator(".answer")).to_have_text("Fine.")
    lines = page.locator(".lines .name")
    expect(lines).to_have_text(["How is tea doing?", "How is coffee doing?"])
    page.get_by_text("Rename").click()
    expect(page.get_by_label("Name of this dialogue")).to_be_focused()
    page.keyboard.type("Leaves")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Leaves")
    expect(lines).to_have_text(["Leaves", "How is coffee doing?"])
    expect(page.locator(".lines [aria-current=page]")).to_contain_text("Leaves")
    page.get_by_role("searchbox").fill("leave")
    expect(lines).to_have_text(["Leaves"])
    expect(page.get_by_role("status")).to_have_text("1 found")
    page.get_by_role("searchbox").fill("")
    expect(lines).to_have_count(2)
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#toast")).to_contain_text("“Leaves” was deleted.")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    expect(lines).to_have_text(["How is coffee doing?"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Leaves")
    page.get_by_role("button", name="Archive").click()
    page.get_by_role("link", name="Dismiss").click()
    page.get_by_role("link", name="Archived").click()
    expect(lines).to_have_text(["Leaves"])


def test_what_is_refused_is_told_and_what_was_typed_stays(opened: Open, llmock: LLMock, url: str) -> None:
    page = opened(given=(person := token("person")))
    box = page.get_by_role("textbox", name="Ask a question")
    box.fill("x" * 32_001)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_have_text("The message must be at most 32000 characters long.")
    assert len(box.input_value()) == 32_001
    box.fill("Not yet sent")
    page.context.set_offline(True)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("cannot be reached")
    expect(box).to_have_value("Not yet sent")
    page.context.set_offline(False)
    # The session ends; signing in again leads back, and the text is still there.
    page.context.clear_cookies(name="bichat_session")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_have_text("Your session has ended: sign in again.")
    page.get_by_label("Your token").fill(person)
    page.keyboard.press("Enter")
    expect(box).to_have_value("Not yet sent")


def test_the_keyboard_is_enough(opened: Open, llmock: LLMock, url: str) -> None:
    llmock.reply(ENDLESS).pace(60)
    page = opened()
    page.goto(f"{url}?q=nothing")  # who has searched is not taken elsewhere
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="Ask a question")).to_be_focused()
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    page.keyboard.press("Enter")
    expect(page.locator(".typed")).to_have_text("First line\nsecond", use_inner_text=True)
    hear(page, 2)
    reach(page, "Stop")
    page.keyboard.press("Enter")
    expect(page.locator(".hint")).to_have_text("Stopped.")
    reach(page, "Delete")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()


def reach(page: Page, name: str) -> None:
    """Goes from control to control, each with a focus that can be seen, until it is there."""
    seen = "e => getComputedStyle(e).outlineStyle !== 'none' || e.matches('textarea')"
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and focused.evaluate("e => e !== document.body"):
            assert focused.evaluate(seen), focused.evaluate("e => e.outerHTML")
            if focused.inner_text() == name:
                return
    raise AssertionError(name)


def overflow(page: Page) -> int:
    """Pixels that the page is too wide."""
    page.wait_for_load_state()  # before its style is there, everything is
    found: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found


def test_a_phone_is_wide_enough(opened: Open, llmock: LLMock) -> None:
    table = "|" + "a long heading|" * 9 + "\n|" + "--|" * 9 + "\n|" + "1|" * 9
    llmock.reply(f"`{'code' * 40}` {'word' * 60}\n\n{table}\n\n```\n{'line ' * 50}\n```")
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True)
    assert overflow(page) == 0
    ask(page, "long" * 100)
    expect(page.locator(".answer table")).to_be_visible()
    assert overflow(page) == 0
    expect(page.get_by_role("navigation")).to_be_hidden()
    small = "es => es.filter(e => e.offsetParent && e.offsetHeight < 24).map(e => e.outerHTML)"
    assert page.locator("button, .button, summary").evaluate_all(small) == []
    page.get_by_role("link", name="All dialogues").click()
    expect(page.locator(".lines .name")).to_have_count(1)
    assert overflow(page) == 0
    page.set_viewport_size({"width": 320, "height": 500})  # 1280 pixels at 400 %
    assert overflow(page) == 0


def test_everybody_can_use_it(opened: Open, llmock: LLMock, url: str) -> None:
    llmock.call_tool("query", {"sql": SQL})
    llmock.call_tool("query", {"sql": "delete from orders"})
    llmock.reply("# Sales\n\n**Up**, [see](https://a.example) `code`\n\n|a|b|\n|--|--:|\n|1|2|\n\n> so it is")
    page = opened(reduced_motion="reduce")
    usable(page)
    ask(page, "How were sales?")
    expect(page.locator(".answer table")).to_be_visible()
    for card in page.locator(".card summary").all():
        card.click()
    usable(page)
    llmock.reset().reply(ENDLESS).pace(60)
    ask(page, "And?")
    hear(page, 2)
    usable(page)
    page.keyboard.press("Escape")
    expect(page.locator(".hint")).to_have_text("Stopped.")
    page.locator("#rename summary").click()
    usable(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    usable(page)
    page.goto(f"{url}/nothing")
    usable(page)
    page.context.clear_cookies()
    page.goto(url)
    usable(page)


def usable(page: Page) -> None:
    """axe-core finds nothing: names, roles, contrast, headings, landmarks."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response
        assert len(found["passes"]) > 10
        told = [
            (rule["id"], node["html"], node["failureSummary"])
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
        assert told == [], scheme


def test_what_is_not_the_pages_own_does_not_run(browser: Browser, url: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        console = Console(page)
        page.goto(url)
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.ran = true";
                document.body.append(script);
                const picture = new Image();
                picture.src = "http://127.0.0.1:9/pixel.png";
                document.body.append(picture);
            }"""
        )
        page.wait_for_timeout(100)
        assert page.evaluate("window.ran") is None
        assert [line for line in console.complaints if "Content Security Policy" in line]
