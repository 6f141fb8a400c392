"""Talking in the terminal: what is printed of a stream, and one clear line when it cannot go on."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bichat.chat import Reply, parsed, run
from bichat.terminal import printable
from tests.terminals import on_terminal


def event(kind: str, number: int, **told: Any) -> dict[str, Any]:
    return {"type": f"reply.{kind}", "id": str(number), "dialogue_id": "d", "message_id": "m", **told}


def delta(number: int, text: str) -> dict[str, Any]:
    return event("delta", number, text=text)


def test_words_are_printed_once_whatever_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    reply = Reply()
    assert not reply.told([event("started", 1), delta(2, "It is ")])
    assert reply.last_id == "2"
    assert reply.told([delta(3, "a "), event("completed", 4, message={"content": "It is a lot."})])
    assert reply.completed
    assert capsys.readouterr().out == "It is a lot.\n"


def test_words_that_were_given_up_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    told = [delta(1, "Half a"), event("superseded", 2), event("completed", 3, message={"content": "All."})]
    assert Reply().told(told)
    assert capsys.readouterr() == ("Half aAll.\n", "\n[starting over]\n")


def test_a_failure_has_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    reply = Reply()
    error = {"code": "model_cut_off", "detail": "no end"}
    assert reply.told([delta(1, "Half"), event("failed", 2, error=error, partial="Half")])
    assert not reply.completed
    assert capsys.readouterr() == ("Half\n", "bichat: no reply: no end\n")


def test_a_model_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\x9b\r\nb\t\u00a0é👩‍💻") == "a[2J\nb\t\u00a0é👩‍💻"


def test_events_are_read_whatever_comes_between() -> None:
    lines = ["retry: 1000", "", ":", "id: 7", "event: x", 'data: {"type": "x"}', "", "data"]
    assert list(parsed(lines)) == [{"type": "x", "id": "7"}]


def test_nobody_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert run(url, "token", "Hello?") == 1
    assert capsys.readouterr().err.startswith(f"bichat: no answer from {url}")


class Answers(BaseHTTPRequestHandler):
    """Refuses `no`, breaks off `half`, leaves `wait` open, answers the rest."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = asked.get("message") or asked["content"]
        match question:
            case "no":
                self.send(400, json.dumps({"detail": "It is a no."}))
            case "half":
                self.send(200, sse(delta(1, "Half a")))
            case "wait":
                self.send(200, sse(delta(1, "Let me ")))
                threading.Event().wait(20)
            case _:
                whole = {"content": f"Yes, {question}."}
                self.send(200, sse(delta(1, "Yes"), event("completed", 2, message=whole)))

    def do_GET(self) -> None:
        self.send(404, json.dumps({"detail": "It is gone."}))

    def send(self, status: int, body: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def sse(*events: dict[str, Any]) -> str:
    return "".join(f"id: {e['id']}\ndata: {json.dumps(e)}\n\n" for e in events)


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_conversation_goes_on_after_a_refusal(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\none\nhalf\ntwo"))
    assert run(url, "token", None) == 0
    out, err = capsys.readouterr()
    assert out == "Yes, one.\nHalf a\nYes, two.\n"
    assert err == "bichat: It is a no. (400)\nbichat: It is gone. (404)\n"
    assert run(url, "token", "no") == 1


def test_a_conversation_goes_on_when_nobody_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert run(url, "token", None) == 0
    assert capsys.readouterr().err.count(f"bichat: no answer from {url}") == 2


def test_on_a_terminal_ctrl_c_stops_waiting_and_then_leaves(url: str) -> None:
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from bichat.chat import run; sys.exit(run(sys.argv[1], 'token', None))"
    )
    with on_terminal([sys.executable, "-c", code, url]) as chat:
        chat.hears(b"you> ")
        chat.types(b"wait\r")
        chat.hears(b"Let me ")
        chat.types(b"\x03")
        chat.hears(b"you> ")
        chat.types(b"x" * 5000 + b"\r")
        chat.hears(rb"x\.\r\n.*you> ")
        assert chat.leaves(b"\x03") == 130
    assert chat.said.startswith(b"Ctrl-D leaves")
    assert b"[no longer waiting; the answer goes on being written]" in chat.said
    assert b"Yes, " + b"x" * 5000 + b"." in chat.said
