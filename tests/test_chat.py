"""Talking in the terminal: what is printed of a stream, and one clear line when it cannot go on."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bichat.chat import Reply, parsed, printable, run


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
