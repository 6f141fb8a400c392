"""The page without a script: forms and links do everything but show words as they are written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from uuid import UUID, uuid4

import httpx
import pytest

from bichat.api.page.rendering import POLICY
from bichat.commands.dialogue import EraseText
from bichat.config import Config
from bichat.config.spending import Rate
from tests.api.conftest import Api, served
from tests.api.talk import execute, write
from tests.api.tokens import SECRET
from tests.examples import OTHER_TENANT
from tests.page.visitor import Page, Visitor, until


def read(visitor: Visitor, path: str) -> Page:
    answer = visitor.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


def names(page: Page) -> list[str]:
    return page.texts("span", class_="name")


@pytest.fixture
def somebody(api: Api) -> Visitor:
    """Who has no dialogues yet."""
    return Visitor(api, f"user {uuid4()}")


def asked(path: str, page: Page) -> tuple[UUID, UUID]:
    """The ids of the dialogue and its newest question."""
    return UUID(path.rpartition("/")[2]), UUID(page.all("article", class_="turn")[-1].attributes["data-id"])


def test_a_question_is_asked_answered_and_asked_on(api: Api, somebody: Visitor) -> None:
    assert read(somebody, "/bi-chat").texts("p", class_="none") == ["What you ask will be listed here."]
    path = somebody.ask("How were\nsales?")
    page = read(somebody, path)
    assert page.texts("h1") == page.texts("span", class_="name") == ["How were sales?"]  # by its first words
    assert [e.text for e in page.all("p", class_="typed")] == ["How were\nsales?"]
    assert page.all("meta", **{"http-equiv": "refresh"})  # until the answer is there
    [current] = page.all("a", **{"aria-current": "page"})
    assert current.attributes["href"] == path
    write(api, asked(path, page), "**42** million.")
    until(lambda: bool(read(somebody, path).all("strong")))
    page = read(somebody, path)
    assert page.texts("strong") == ["42"]
    assert not page.all("meta", **{"http-equiv": "refresh"})
    answer = somebody.fill(f"{path}/messages", message="And in May?")
    assert answer.headers["Location"].startswith(f"{path}#turn-")
    assert read(somebody, path).texts("p", class_="typed") == ["How were sales?", "And in May?"]


def test_a_form_sent_twice_asks_once(somebody: Visitor) -> None:
    [key] = read(somebody, "/bi-chat").all("input", name="key")
    twice = [somebody.fill("/bi-chat/new", message="Once", key=str(key.attributes["value"])) for _ in "12"]
    assert len({answer.headers["Location"] for answer in twice}) == 1
    assert names(read(somebody, "/bi-chat")) == ["Once"]


def test_a_reply_is_stopped_and_asked_for_again(api: Api, somebody: Visitor) -> None:
    path = somebody.ask()
    page = read(somebody, path)
    _, question = asked(path, page)
    assert somebody.fill(f"{path}/messages/{question}/cancel").status_code == 303
    page = read(somebody, path)
    assert page.texts("p", class_="hint") == ["Stopped."]
    assert somebody.fill(f"{path}/messages/{question}/retry").status_code == 303
    page = read(somebody, path)
    assert page.texts("p", class_="hint") == ["Waiting for the model"]
    write(api, asked(path, page), "A lot of it", end="failed")
    until(lambda: "no answer" in read(somebody, path).texts("span", class_="when")[0])
    page = read(somebody, path)
    assert page.texts("p", class_="hint") == ["There is no answer: no end"]
    assert page.texts("div", class_="partial") == ["A lot"]
    assert page.texts("button", id=f"retry-{question}") == ["Try again"]


def test_a_dialogue_is_named_put_away_and_brought_back(somebody: Visitor) -> None:
    path = somebody.ask("Which products?")
    assert somebody.fill(f"{path}/rename", label="Products").headers["Location"] == path
    assert read(somebody, path).texts("h1") == ["Products"]
    for act, shelf in (("archive", "archived"), ("delete", "deleted")):
        went = somebody.fill(f"{path}/{act}").headers["Location"]
        page = read(somebody, went)
        assert page.texts("p", id="toast-text") == [f"“Products” was {shelf}."]
        [undo] = [form for form in page.all("form") if "Undo" in form.text]
        assert names(page) == []
        assert names(read(somebody, f"/bi-chat?state={shelf}")) == ["Products"]
        away = read(somebody, path)
        assert not away.all("textarea")
        refused = somebody.fill(f"{path}/messages", message="Still there?")
        assert refused.status_code == 409
        assert Page(refused.text).texts("textarea", name="message") == ["Still there?"]
        assert somebody.fill(str(undo.attributes["action"])).headers["Location"] == path
        assert names(read(somebody, "/bi-chat")) == ["Products"]


def test_delete_is_a_method_too(somebody: Visitor) -> None:
    path = somebody.ask()
    headers = {"X-CSRF-Token": somebody.csrf, "Accept": "application/json"}
    gone = somebody.delete(path, headers=headers)
    assert (gone.status_code, gone.json()["dialogue_id"]) == (200, path.rpartition("/")[2])
    assert names(read(somebody, "/bi-chat")) == []


def test_the_list_is_searched_and_has_pages(somebody: Visitor) -> None:
    for n in range(23):
        somebody.ask(f"Question {n:02}")
    page = read(somebody, "/bi-chat")
    assert names(page) == [f"Question {n:02}" for n in range(22, 2, -1)]
    [older] = page.all("a", class_="more")
    assert names(read(somebody, str(older.attributes["href"]))) == [
        "Question 02",
        "Question 01",
        "Question 00",
    ]
    assert names(read(somebody, "/bi-chat?q=question+1")) == [f"Question {n}" for n in range(19, 9, -1)]
    nothing = read(somebody, "/bi-chat?q=nothing")
    assert nothing.texts("p", class_="none") == ["Nothing is about “nothing”."]
    assert [e.attributes["value"] for e in nothing.all("input", name="q")] == ["nothing"]
    assert somebody.get("/bi-chat?after=rubbish").status_code == 400
    assert somebody.get("/bi-chat?state=other").status_code == 400


def test_what_was_said_in_the_middle_is_found_and_shown(api: Api, somebody: Visitor) -> None:
    path = somebody.ask("How many people left?")
    write(api, asked(path, read(somebody, path)), "Fourteen employees quit,\nmost of them in *sales*.")
    until(lambda: "answered" in somebody.get(path).text)
    somebody.fill(f"{path}/messages", message="And in May?")
    somebody.ask("What does coffee cost?")
    until(lambda: names(read(somebody, "/bi-chat?q=employees")) == ["How many people left?"])
    page = read(somebody, "/bi-chat?q=employees+quit")
    assert names(page) == ["How many people left?"]
    assert page.texts("span", class_="snippet") == ["Fourteen employees quit, most of them in *sales*."]
    assert names(read(somebody, "/bi-chat?q=employees&state=archived")) == []
    somebody.fill(f"{path}/archive")
    assert names(read(somebody, "/bi-chat?q=employees")) == []
    assert names(read(somebody, "/bi-chat?q=employees&state=archived")) == ["How many people left?"]


def test_a_long_dialogue_has_pages(api: Api, somebody: Visitor) -> None:
    path = somebody.ask("Message 1")
    for n in range(2, 53):
        somebody.fill(f"{path}/messages", message=f"Message {n}")
    page = read(somebody, path)
    assert page.texts("p", class_="typed") == [f"Message {n}" for n in range(3, 53)]
    [earlier] = page.all("a", class_="earlier")
    page = read(somebody, str(earlier.attributes["href"]))
    assert page.texts("p", class_="typed") == ["Message 1", "Message 2"]
    assert not page.all("a", class_="earlier")
    first = page.all("article", class_="turn")[0].attributes["data-id"]
    piece = read(somebody, f"{path}/messages/{first}")
    assert piece.texts("p", class_="typed") == ["Message 1"]
    # It is answered after all that was said since, and its answer stands with it.
    write(api, (UUID(path.rpartition("/")[2]), UUID(str(first))), "At last.")
    until(lambda: bool(read(somebody, f"{path}/messages/{first}").all("div", class_="answer")))
    assert read(somebody, f"{path}/messages/{first}").texts("div", class_="answer") == ["At last."]


REFUSED: dict[str, tuple[str, int, str]] = {
    "nothing": (" \n ", 400, "blank"),
    "a control character": ("a\x1b[2J", 400, "control"),
    "too much": ("x" * 32_001, 400, "at most 32000 characters"),
}


@pytest.mark.parametrize(("message", "status", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_told_and_what_was_typed_is_kept(
    somebody: Visitor, message: str, status: int, told: str
) -> None:
    path = somebody.ask()
    for target in ("/bi-chat/new", f"{path}/messages"):
        answer = somebody.fill(target, message=message)
        page = Page(answer.text)
        assert answer.status_code == status
        assert told in page.texts("p", class_="refused")[0]
        assert [e.text for e in page.all("textarea", name="message")] == [message]
        [form] = page.all("form", class_="composer")
        assert form.attributes["action"] == target


def test_who_asks_too_often_is_told_when_to_come_back(module_database_url: str, redis_url: str) -> None:
    config = Config(
        database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET,
        bichat_rate_limit=Rate(4, "hour"),
    )  # fmt: skip
    with served(config) as api, closing(Visitor(api, f"user {uuid4()}")) as hasty:
        for _ in range(5):
            answer = hasty.fill("/bi-chat/new", message="Too much?")
        assert answer.status_code == 429
        page = Page(answer.text)
        assert page.texts("h1") == ["A little too fast"]
        told, *_ = page.texts("p", class_="refused")
        minutes = -(-int(answer.headers["Retry-After"]) // 60)
        assert told == f"Too many requests of this user, at most 4 in a hour: try again in {minutes} min."
        assert page.texts("textarea", name="message") == ["Too much?"]


def test_erased_text_is_said_to_be_erased(api: Api, somebody: Visitor) -> None:
    path = somebody.ask("My secret")
    question = asked(path, read(somebody, path))
    write(api, question, "Your secret")
    asyncio.run(execute(api, EraseText(dialogue_id=question[0])))
    until(lambda: "secret" not in somebody.get(path).text)
    page = read(somebody, path)
    assert page.texts("h1") == page.texts("span", class_="name") == ["erased"]
    assert page.texts("p", class_="erased") == ["erased", "erased"]


def stranger_paths(path: str) -> list[tuple[str, str]]:
    question = uuid4()
    return [
        ("GET", path), ("GET", f"{path}/stream"), ("GET", f"{path}/messages/{question}"), ("DELETE", path),
        ("POST", f"{path}/messages"), ("POST", f"{path}/rename"), ("POST", f"{path}/archive"),
        ("POST", f"{path}/restore"), ("POST", f"{path}/delete"),
        ("POST", f"{path}/messages/{question}/cancel"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other", [lambda api: Visitor(api, "bert"), lambda api: Visitor(api, "anna", tenant=str(OTHER_TENANT))],
    ids=["another person", "another tenant"],
)  # fmt: skip
def test_what_is_somebody_elses_is_nowhere_to_be_found(
    api: Api, anna: Visitor, other: Callable[[Api], Visitor]
) -> None:
    path = anna.ask("Private")
    anna.fill(f"{path}/archive")
    with closing(other(api)) as them:
        assert names(read(them, "/bi-chat?q=Private&state=archived")) == []
        undo = f"/bi-chat?undo={path.rpartition('/')[2]}"
        assert (
            len(read(anna, undo).all("div", id="toast")),
            len(read(them, undo).all("div", id="toast")),
        ) == (1, 0)
        for theirs, unknown in zip(stranger_paths(path), stranger_paths(f"/bi-chat/{uuid4()}"), strict=True):
            told = [_tried(them, *theirs), _tried(them, *unknown)]
            assert [answer.status_code for answer in told] == [404, 404], theirs
            assert Page(told[0].text).texts("h1") == ["There is nothing here"]
            lines = [Page(answer.text).texts("p", role="alert") for answer in told]
            assert lines[0] == lines[1]
    assert read(anna, path).texts("h1") == ["Private"]


def _tried(visitor: Visitor, method: str, path: str) -> httpx.Response:
    if method == "POST":
        return visitor.fill(path, message="Mine now", label="Mine now")
    return visitor.request(method, path, headers={"X-CSRF-Token": visitor.csrf})


def test_who_comes_back_to_the_address_of_a_form_finds_a_page(somebody: Visitor) -> None:
    path = somebody.ask()
    assert somebody.get("/bi-chat/new").headers["Location"] == "/bi-chat"
    assert somebody.get(f"{path}/messages").headers["Location"] == path


def test_every_answer_is_safe_and_private(api: Api, anna: Visitor) -> None:
    path = anna.ask()
    with anna.stream("GET", f"{path}/stream") as stream:
        answers = [
            stream,
            anna.get(path),
            anna.get("/bi-chat"),
            anna.get("/bi-chat/nothing"),
            anna.get("/bi-chat/a/b/c"),
        ]
        answers += [
            anna.fill(f"{path}/rename", label="x"),
            anna.get("/bi-chat/sign-in"),
            anna.put("/bi-chat"),
        ]
        for answer in answers:
            assert answer.headers["Content-Security-Policy"] == POLICY, answer.url
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            assert answer.headers["Cache-Control"] == "private, no-store"
    assert "'unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none';")


def test_the_pages_files_are_asked_for_anew_and_sent_once(stranger: Visitor) -> None:
    for name, kind in (
        ("page.js", "text/javascript"),
        ("page.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ):
        found = stranger.get(f"/bi-chat/static/{name}")
        assert found.headers["Content-Type"].partition(";")[0] == kind
        assert found.headers["Cache-Control"] == "no-cache"
        again = stranger.get(f"/bi-chat/static/{name}", headers={"If-None-Match": found.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("nothing.js", "..%2fsession.py", "__init__.py"):
        assert stranger.get(f"/bi-chat/static/{name}").status_code == 404


def test_the_page_is_not_part_of_the_api(stranger: Visitor) -> None:
    assert "/bi-chat" not in stranger.get("/schema/openapi.json").text
