"""What is asked and what is answered: each question names a model of its own, whose one answer names it."""

from __future__ import annotations

import httpx

from bichat.events.dialogue import MessageAdded

_WORDS = "the sales went well over the last two quarters of the year, so they say of region"
REFUSED = "refused-"
"""Models of this name answer nobody: 400, so that the question ends as failed."""


def question(number: int) -> str:
    """What a client asks; said once in a run."""
    return f"How did the sales of region {number:05d} go?"


def model(number: int, *, refused: bool = False) -> str:
    """The model that question `number` names."""
    return f"{REFUSED if refused else 'region-'}{number:05d}"


def answer(number: int) -> str:
    """What that model answers."""
    return f"Of region {number:05d}: {_WORDS} {number:05d}."


def answers(count: int) -> dict[str, str]:
    """Of the models for so many questions."""
    return {model(number): answer(number) for number in range(count)}


def due(asked: MessageAdded) -> str:
    """The one answer that this question may get."""
    return answer(int((asked.content or "").partition("region ")[2][:5]))


def refuse(model_url: str) -> None:
    """Has llmock refuse what is asked of `REFUSED` models."""
    script = [{"type": "fail", "status": 400, "times": None, "match": {"model": f"{REFUSED}*"}}]
    url = model_url.removesuffix("/v1")
    httpx.post(f"{url}/_llmock/scenario", json={"behaviors": script}).raise_for_status()
