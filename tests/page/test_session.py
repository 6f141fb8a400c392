"""Who may look: a session holds a good token and nothing else does; only the page's own forms count."""

from __future__ import annotations

import time
from http.cookies import SimpleCookie
from uuid import UUID

import httpx
import pytest

from tests.api.conftest import Api
from tests.api.tokens import token
from tests.page.visitor import Page, Visitor


def cookies(answer: httpx.Response) -> SimpleCookie:
    found = SimpleCookie()
    for line in answer.headers.get_list("Set-Cookie"):
        found.load(line)
    return found


ID = UUID(int=7)
ROUTES = [
    ("GET", ""), ("POST", "/new"), ("GET", f"/{ID}"), ("DELETE", f"/{ID}"), ("GET", f"/{ID}/stream"),
    ("POST", f"/{ID}/messages"), ("GET", f"/{ID}/messages/{ID}"), ("POST", f"/{ID}/messages/{ID}/cancel"),
    ("POST", f"/{ID}/messages/{ID}/retry"), ("POST", f"/{ID}/rename"), ("POST", f"/{ID}/archive"),
    ("POST", f"/{ID}/restore"), ("POST", f"/{ID}/delete"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_session_there_is_only_the_form_for_a_token(
    stranger: Visitor, method: str, path: str
) -> None:
    answer = stranger.request(method, f"/bi-chat{path}")
    assert answer.status_code == 401
    assert Page(answer.text).all("input", name="token")
    # A script is told in its own way, and a bearer token is no session.
    headers = {"Accept": "application/json", "Authorization": f"Bearer {token()}"}
    refused = stranger.request(method, f"/bi-chat{path}", headers=headers)
    assert (refused.status_code, refused.headers["Content-Type"]) == (401, "application/problem+json")


def test_the_address_alone_leads_to_the_page(stranger: Visitor) -> None:
    led = stranger.get("/")
    assert (led.status_code, led.headers["Location"]) == (307, "/bi-chat")
    assert Page(stranger.get("/", follow_redirects=True).text).all("input", name="token")


def test_a_token_opens_a_session_that_scripts_cannot_read_and_that_ends_with_it(stranger: Visitor) -> None:
    answer = stranger.sign_in(f" Bearer {token(exp=int(time.time()) + 600)}\n")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/bi-chat")
    session = cookies(answer)["bichat_session"]
    assert session["httponly"]
    assert (session["samesite"].lower(), session["path"], session["secure"]) == ("lax", "/bi-chat", "")
    assert 590 <= int(session["max-age"]) <= 600
    assert stranger.get("/bi-chat").status_code == 200


def test_over_https_the_session_never_travels_in_the_open(api: Api) -> None:
    with Visitor(api) as behind_a_proxy:
        behind_a_proxy.headers.update({"Origin": "https://chat.example", "Host": "chat.example"})
        answer = behind_a_proxy.post("/bi-chat/sign-in", data={"token": token()})
        assert all(cookie["secure"] for cookie in cookies(answer).values())


def test_the_session_counts_for_the_page_alone(anna: Visitor) -> None:
    sent = {"Cookie": f"bichat_session={anna.cookies['bichat_session']}"}
    assert anna.get("/v1/dialogues", headers=sent).status_code == 401


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "missing"),
        ("rubbish", "not valid"),
        (token(key="another secret of thirty-two bytes"), "not valid"),
        (token(exp=1), "expired"),
        (token(roles=["auditor"]), "needs the role user"),
        (token(padding="x" * 5000), "too long"),
    ],
    ids=["none", "rubbish", "forged", "expired", "no user", "too long"],
)
def test_a_bad_token_opens_none_and_it_is_said_why(stranger: Visitor, given: str, told: str) -> None:
    answer = stranger.sign_in(given)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    [line] = Page(answer.text).texts("p", role="alert", class_="refused")
    assert told in line
    assert given not in answer.text or not given


def test_who_was_on_the_way_to_a_dialogue_gets_there_and_nowhere_else(api: Api, anna: Visitor) -> None:
    path = anna.ask()
    with Visitor(api) as visitor:
        [to] = Page(visitor.get(path).text).all("input", name="to")
        assert f"/bi-chat/{to.attributes['value']}" == path
        answer = visitor.sign_in(token(), to=str(to.attributes["value"]))
        assert answer.headers["Location"] == path
        assert visitor.get(path).status_code == 200
        for elsewhere in ("//evil.example", "https://evil.example", "../v1"):
            assert visitor.sign_in(token(), to=elsewhere).headers["Location"] == "/bi-chat"


def test_a_session_that_has_ended_is_told_and_what_was_typed_is_kept(api: Api) -> None:
    with Visitor(api) as visitor:
        visitor.sign_in(token(exp=int(time.time()) + 2))
        time.sleep(2.1)
        for expired in (True, False):  # the browser drops the cookie, or has not yet
            if expired:
                visitor.cookies.set("bichat_session", token(exp=1), path="/bi-chat")
            answer = visitor.fill("/bi-chat/new", message="My long question")
            assert answer.status_code == 401
            page = Page(answer.text)
            assert page.texts("textarea", name="text") == ["My long question"]
            assert page.all("p", role="alert", class_="refused")
            visitor.cookies.delete("bichat_session", path="/bi-chat")


def test_signing_out_leaves_nothing_behind(anna: Visitor) -> None:
    answer = anna.fill("/bi-chat/sign-out")
    assert answer.status_code == 303
    assert {cookie["max-age"] for cookie in cookies(answer).values()} == {"0"}
    assert anna.get("/bi-chat").status_code == 401


FORGED: dict[str, tuple[dict[str, str], str | None]] = {
    "no csrf": ({}, ""),
    "another's csrf": ({}, "0" * 64),
    "csrf that is no ASCII": ({}, "ä"),
    "another site": ({"Origin": "https://evil.example"}, None),
    "another site, by its word": ({"Sec-Fetch-Site": "cross-site"}, None),
    "a neighbour": ({"Sec-Fetch-Site": "same-site"}, None),
    "an opaque origin": ({"Origin": "null"}, None),
    "no origin": ({"Origin": ""}, None),
}


@pytest.mark.parametrize(("headers", "csrf"), FORGED.values(), ids=FORGED.keys())
def test_nobody_else_can_send_a_persons_form(
    anna: Visitor, headers: dict[str, str], csrf: str | None
) -> None:
    path = anna.ask("Do not delete this")
    fields = {"csrf": anna.csrf if csrf is None else csrf, "message": "Forged"}
    for target in ("/bi-chat/new", f"{path}/delete", f"{path}/messages", f"{path}/rename"):
        assert anna.post(target, data=fields, headers=headers).status_code == 403
    tried = {
        name.encode(): value.encode() for name, value in (*headers.items(), ("X-CSRF-Token", fields["csrf"]))
    }
    assert anna.delete(path, headers=tried).status_code == 403
    assert "Do not delete this" in anna.get(path).text
    assert "Forged" not in anna.get("/bi-chat").text


def test_nobody_is_signed_in_or_out_by_another_site(api: Api, anna: Visitor) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("sign-in", "sign-out"):
            refused = anna.post(f"/bi-chat/{path}", data={"token": token("eve")}, headers=headers)
            assert refused.status_code == 403
            assert "Set-Cookie" not in refused.headers


def test_a_form_of_an_older_session_is_refused_and_keeps_what_was_typed(api: Api, anna: Visitor) -> None:
    old = anna.csrf
    anna.sign_in(token("anna", exp=int(time.time()) + 1000))
    refused = anna.post("/bi-chat/new", data={"csrf": old, "message": "My long question"})
    assert refused.status_code == 403
    assert Page(refused.text).texts("textarea", name="message") == ["My long question"]
    [key] = {e.attributes["value"] for e in Page(refused.text).all("input", name="csrf")}
    assert key == anna.csrf  # so that sending it from there works
