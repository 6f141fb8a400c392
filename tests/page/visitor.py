"""A browser without a script: it keeps cookies, sends forms with what they carry, and reads HTML."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import httpx
from msgspec import Struct

from tests.api.conftest import Api
from tests.api.tokens import token

CSRF = re.compile('name="csrf" content="([0-9a-f]{64})"')


class Visitor(httpx.Client):
    """Somebody at the page."""

    def __init__(self, api: Api, user: str = "", **claims: Any) -> None:
        """Signed in as `user`, if there is one."""
        headers = {"Accept": "text/html,*/*;q=0.8", "Origin": api.url}
        super().__init__(base_url=api.url, headers=headers, timeout=20)
        self.csrf = ""
        if user:
            assert self.sign_in(token(user, **claims)).status_code == 303

    def sign_in(self, given: str, **fields: str) -> httpx.Response:
        """Sends the form of a token."""
        answer = self.post("/bi-chat/sign-in", data={"token": given, **fields})
        found = CSRF.search(self.get("/bi-chat").text)
        self.csrf = found[1] if found else ""
        return answer

    def fill(self, path: str, **fields: str) -> httpx.Response:
        """Sends a form of the page's."""
        return self.post(path, data={"csrf": self.csrf, **fields})

    def ask(self, message: str = "How much?") -> str:
        """Opens a dialogue; its path."""
        answer = self.fill("/bi-chat/new", message=message)
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"].partition("#")[0]


def until(check: Callable[[], bool]) -> None:
    """Returns once it holds: what is read follows what is written by milliseconds."""
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Element(Struct):
    """One of a page's, with its own text."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""


class Page(HTMLParser):
    """A page taken apart as a browser would."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in ("input", "meta", "link", "br", "hr", "img"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while tag in [element.tag for element in self._open] and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """The elements of a kind; `class_` matches one of its classes."""
        class_ = attributes.pop("class_", None)
        return [
            e
            for e in self.elements
            if e.tag == tag
            and (class_ is None or class_ in (e.attributes.get("class") or "").split())
            and all(e.attributes.get(name) == value for name, value in attributes.items())
        ]

    def texts(self, tag: str, **attributes: str) -> list[str]:
        """What stands in them."""
        return [" ".join(e.text.split()) for e in self.all(tag, **attributes)]
