"""Talking to bichat in the terminal: one dialogue for the session, replies word by word."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx

from bichat.terminal import line, printable

PATIENCE = httpx.Timeout(10, read=30)
"""Seconds; a stream that is alive says something every 15."""
RESUMES = 5
"""How often in a row a reply that breaks off is taken up again."""


class NotNow(Exception):
    """The server asks to be asked again."""


class Broken(Exception):
    """The conversation cannot go on; the message is for the person."""


def run(url: str, token: str, message: str | None, trust: ssl.SSLContext | bool = True) -> int:
    """Asks `message`, or whatever is typed until the end of input; returns the exit status."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, verify=trust) as client:
        chat = Chat(client)
        try:
            if message is not None:
                return 0 if _answered(chat, message) else 1
            for question in _typed():
                try:
                    _answered(chat, question)
                except KeyboardInterrupt:
                    print(f"[no longer waiting{chat.goes_on}]", file=sys.stderr)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
    return 0


def _answered(chat: Chat, question: str) -> bool:
    try:
        return chat.ask(question)
    except Broken as broken:
        print(f"bichat: {broken}", file=sys.stderr)
        return False


def _typed() -> Iterator[str]:
    """Lines from the terminal, or from a pipe."""
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):  # not every Python has it
            import readline  # noqa: F401, PLC0415  # `input` can edit and go back with it, and takes long lines
        print("Ctrl-D leaves, Ctrl-C stops waiting for an answer.", file=sys.stderr)
    while True:
        try:
            typed = input("you> " if terminal else "")
        except EOFError:
            if terminal:
                print()
            return
        if typed.strip():
            yield typed


class Chat:
    """One dialogue; the first question opens it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._dialogue_id = ""
        self._reply = Reply()

    @property
    def goes_on(self) -> str:
        """What becomes of the last question when nobody waits for its answer; empty if it never arrived."""
        return "; the answer goes on being written" if self._reply.last_id else ""

    def ask(self, question: str) -> bool:
        """Asks and prints the reply as it comes; False when there is none. Raises `Broken`."""
        self._reply = Reply()
        try:
            return self._ask(question, self._reply)
        finally:
            self._reply.end_line()
            self._dialogue_id = self._reply.dialogue_id or self._dialogue_id

    def _ask(self, question: str, reply: Reply) -> bool:
        question = question.encode(errors="replace").decode()  # a terminal may send what is not UTF-8
        path, body = "/v1/dialogues", {"message": question}
        if self._dialogue_id:
            path, body = f"/v1/dialogues/{self._dialogue_id}/messages", {"content": question}
        key, trouble = str(uuid4()), ""
        for attempt in range(RESUMES):
            time.sleep(attempt / 2)
            try:
                if reply.last_id is None:  # the same key again is the same question
                    events = self._events("POST", path, json=body, headers={"Idempotency-Key": key})
                else:
                    events = self._events(
                        "GET",
                        f"/v1/dialogues/{reply.dialogue_id}/stream",
                        params={"message_id": reply.message_id, "starting_after": reply.last_id},
                    )
                if reply.told(events):
                    return reply.completed
            except (httpx.HTTPError, NotNow) as error:
                trouble = str(error) or type(error).__name__
                if attempt == 0 and isinstance(error, httpx.ConnectError):
                    break  # nobody is there at all
            else:
                trouble = "the server ended the stream"
        raise Broken(f"no answer from {self._client.base_url}: {trouble}")

    def _events(self, method: str, path: str, **request: Any) -> Iterator[dict[str, Any]]:
        with self._client.stream(method, path, **request) as response:
            if response.status_code != 200:
                response.read()
                raise (NotNow if _soon(response) else Broken)(_problem(response))
            yield from parsed(response.iter_lines())


class Reply:
    """One reply on its way to the terminal."""

    def __init__(self) -> None:
        self.dialogue_id = self.message_id = ""
        self.last_id: str | None = None
        self.completed = False
        self._shown = ""
        self._in_line = False

    def told(self, events: Iterable[dict[str, Any]]) -> bool:
        """Prints what the events say; True once one of them was the end."""
        for event in events:
            self.dialogue_id, self.message_id = event["dialogue_id"], event["message_id"]
            self.last_id = event["id"]
            match event["type"]:
                case "reply.delta":
                    self._print(event["text"])
                case "tool.called":
                    self._aside(f"{event['name']} {event['arguments']}")
                case "reply.superseded":
                    self._forget()
                case "reply.completed":
                    self._finish(event["message"]["content"] or "")
                    self.completed = True
                    return True
                case "reply.failed":
                    self._end(f"no reply: {event['error']['detail'] or event['error']['code']}")
                    return True
                case "reply.cancelled":
                    self._end("the reply was cancelled")
                    return True
        return False

    def _print(self, text: str) -> None:
        self._shown += text
        self._in_line = not text.endswith("\n") if text else self._in_line
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    def _aside(self, text: str) -> None:
        """What goes on between the words."""
        self.end_line()
        print(f"[{line(text)}]", file=sys.stderr)

    def _forget(self) -> None:
        if self._shown:
            print("\n[starting over]", file=sys.stderr)
        self._shown, self._in_line = "", False

    def _finish(self, content: str) -> None:
        """The committed message is what counts: prints what of it was not heard."""
        if content.startswith(self._shown):
            self._print(content[len(self._shown) :])
        else:
            self._forget()
            self._print(content)
        self.end_line()

    def _end(self, why: str) -> None:
        self.end_line()
        print(f"bichat: {why}", file=sys.stderr)

    def end_line(self) -> None:
        """What is printed next starts on a line of its own."""
        if self._in_line:
            print(flush=True)
        self._in_line = False


def parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, each with its `id`."""
    event: dict[str, str] = {}
    for row in lines:
        if row:
            name, _, value = row.partition(":")
            event[name] = value.removeprefix(" ")
        elif "data" in event:
            yield {**json.loads(event["data"]), "id": event.get("id")}
            event = {}


def _soon(response: httpx.Response) -> bool:
    """Whether it asks to be asked again within the time that this goes on trying."""
    seconds = response.headers.get("retry-after", "")
    return seconds.isdecimal() and int(seconds) <= RESUMES


def _problem(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.reason_phrase
    return f"{detail} ({response.status_code})"
