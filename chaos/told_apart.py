"""Two requests that must not be told apart: the same answer, byte by byte, and the same lines in the log."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
from msgspec import Struct
from uuid_utils.compat import uuid7

from bench.stack import Stack
from chaos.routes import Route
from chaos.statements import Statements

VARIES = ("date", "x-request-id", "content-length")
"""Headers; the length is compared with the text."""
_TIMES = re.compile(r"^\S+ \S+|\d+\.\d ms|milliseconds=\S+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Answer(Struct, frozen=True):
    """What a request was told, but for the ids that its asker named."""

    status: int
    text: str
    headers: dict[str, str]


class Pair(Struct, frozen=True):
    """A request about what is there and the same about what never was."""

    route: Route
    who: str
    answers: tuple[Answer, Answer]
    requests: tuple[str, str]
    statements: tuple[frozenset[str], frozenset[str]]

    @property
    def status(self) -> int:
        """What the first was told."""
        return self.answers[0].status

    @property
    def alike(self) -> bool:
        """Whether the answers are the same, by the same path."""
        return self.answers[0] == self.answers[1] and self.statements[0] == self.statements[1]

    def __str__(self) -> str:
        asked = [*self.statements[0] ^ self.statements[1]]
        return f"{self.route} of {self.who}: {self.answers}" + (
            f", asked differently: {asked}" if asked else ""
        )


class Asking:
    """Sends such pairs, and afterwards reads what the log says of each."""

    def __init__(self, bichat: Stack, there: dict[str, str], statements: Statements) -> None:
        self._bichat, self._there, self._statements = bichat, there, statements
        self._http = httpx.Client(base_url=bichat.url, timeout=20)
        self.pairs: list[Pair] = []

    def pair(self, route: Route, who: str, headers: dict[str, str]) -> Pair:
        """Asks about what is there, and about what never was."""
        for _ in range(3):  # what else the API asks its database at times is no difference
            pair = self._pair(route, who, headers)
            if pair.alike:
                break
        self.pairs.append(pair)
        return pair

    def _pair(self, route: Route, who: str, headers: dict[str, str]) -> Pair:
        made = {name: str(uuid7()) for name in ("dialogue_id", "message_id", "hold_id")}
        never = {**self._there, **made, "name": "never-written", "user_id": "nobody"}
        (one, its, asked), (other, others, like) = (
            self._ask(route, ids, headers) for ids in (self._there, never)
        )
        return Pair(route, who, (one, other), (its, others), (asked, like))

    def _ask(
        self, route: Route, ids: dict[str, str], headers: dict[str, str]
    ) -> tuple[Answer, str, frozenset[str]]:
        request_id, place = f"r8-{uuid7()}", self._statements.now
        method, path, body = route.request(ids)
        told = self._http.request(method, path, json=body, headers=headers | {"X-Request-Id": request_id})
        kept = {name: value for name, value in told.headers.items() if name not in VARIES}
        named = sorted({*ids.values()} - {"1"}, key=len, reverse=True)
        shown = {name: _without(named, value) for name, value in kept.items()}
        answer = Answer(told.status_code, _without(named, told.text), shown)
        return answer, request_id, self._statements.since(place)

    def told_apart(self) -> list[tuple[Pair, Any]]:
        """The pairs of which the log, without ids and times, says different things."""
        lines = self._lines()
        told = [(pair, [lines.get(request) for request in pair.requests]) for pair in self.pairs]
        return [(pair, both) for pair, both in told if both[0] != both[1]]

    def _lines(self) -> dict[str, list[str]]:
        """By request; waits until the log has told of one more."""
        last = f"r8-{uuid7()}"
        self._http.get("/v1/dialogues", headers={"X-Request-Id": last})
        deadline = time.monotonic() + 10
        while last not in (text := (self._bichat.logs / "api.log").read_text()):
            if time.monotonic() > deadline:
                raise TimeoutError("the log does not tell of the last request")
            time.sleep(0.05)
        found: dict[str, list[str]] = {}
        for line in text.splitlines():
            if of := re.search(r"r8-[0-9a-f-]{36}", line):
                found.setdefault(of[0], []).append(_TIMES.sub("…", line.replace(of[0], "…")))
        return found


def _without(named: list[str], text: str) -> str:
    for name in named:
        text = text.replace(name, "…")
    return text
