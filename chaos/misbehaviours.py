"""Each way of misbehaving that llmock knows, and what must become of the question that meets it."""

from __future__ import annotations

import re
from typing import Any, get_args

from llmock import ratelimit, scenarios
from msgspec import Struct, field

from chaos.verdict import Verdict

WORDS = "The sales went well in every region this year, but for one that nobody looked at."
WINDOW = 3000
"""Tokens that the model reads; fewer than bichat would show it."""
SILENCE = 60.0
"""Seconds that a worker listens to a model that says nothing."""
AGAIN, ONCE, DOWN, REFUSED = ["", "model_unavailable"], [""], ["model_unavailable"] * 4, ["model_refused"]


class Case(Struct, frozen=True, kw_only=True):
    """One way of misbehaving, and what must become of the question."""

    name: str
    behaves: tuple[dict[str, Any], ...]
    attempts: list[str]
    """How each ends, the last first: the code of its failure, empty for an answer."""
    text: str = "How did the sales go?"
    long: bool = False
    """Takes half a minute or more: only where there is time."""
    gap: float = 0.0
    """Seconds that the provider asked to be left alone for."""
    told: tuple[str, ...] = field(default=())
    """What the reason must say."""

    @property
    def model(self) -> str:
        """The one that misbehaves so, and no other."""
        return "-".join(re.findall(r"\w+", self.name))


def fail(status: int, **more: Any) -> dict[str, Any]:
    return {"type": "fail", "status": status, **more}


def stream(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "stream_fault", "kind": kind, "after_chunks": 4, **more}


BREAKS = {"disconnect": "model_cut_off", "truncate": "model_cut_off", "malformed": "model_nonsense"}

CASES = (
    Case(name="all is well", behaves=(), attempts=ONCE),
    *(Case(name=f"{s} once", behaves=(fail(s),), attempts=AGAIN, long=s not in (429, 500))
      for s in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
    *(Case(name=f"{s}", behaves=(fail(s),), attempts=REFUSED, long=s != 401, told=(f"HTTP {s}",))
      for s in (400, 401, 402, 403, 404, 405, 413, 422)),
    Case(name="429 with Retry-After", behaves=(fail(429, retry_after=2),), attempts=AGAIN, gap=2),
    Case(name="429 for want of money", behaves=(fail(429, code="insufficient_quota"),), attempts=REFUSED),
    Case(name="503 for ever", behaves=(fail(503, times=None),), attempts=DOWN, told=("HTTP 503",)),
    Case(name="down, and asks for patience", behaves=(fail(503, times=3, retry_after=1),),
         attempts=["", *DOWN[:3]], gap=1, long=True),
    *(Case(name=f"{kind} once", behaves=(stream(kind),), attempts=["", code])
      for kind, code in BREAKS.items()),
    *(Case(name=f"{kind} for ever", behaves=(stream(kind, times=None),), attempts=[code] * 4, long=True)
      for kind, code in BREAKS.items()),
    *(Case(name=f"{kind} before a word", behaves=(stream(kind) | {"after_chunks": 0},), attempts=["", code],
           long=True) for kind, code in BREAKS.items()),
    Case(name="stall for a while", behaves=(stream("stall", stall_seconds=2),), attempts=ONCE),
    Case(name="stall for too long", behaves=(stream("stall", stall_seconds=SILENCE + 10),),
         attempts=["", "model_silent"], long=True),
    Case(name="late", behaves=({"type": "delay", "seconds": 2},), attempts=ONCE),
    Case(name="slow first token", behaves=({"type": "slow_first_token", "seconds": 2},), attempts=ONCE),
    Case(name="a tool that was never offered", behaves=({"type": "tool_fault", "kind": "unknown_tool"},),
         attempts=ONCE),
    Case(name="a call cut in half", behaves=({"type": "tool_fault", "kind": "malformed_arguments"},),
         attempts=ONCE),
    Case(name="calls for ever", attempts=["rounds_exhausted"], behaves=(
        {"type": "reply", "tool_calls": [{"name": "current_time", "arguments": {}}], "times": None},)),
    Case(name="nothing said", behaves=({"type": "reply", "text": ""},), attempts=["", "model_nonsense"]),
    Case(name="cut by its filter", attempts=ONCE, behaves=(
        {"type": "reply", "text": WORDS, "finish_reason": "content_filter"},)),
    Case(name="cut by its limit", attempts=ONCE, behaves=(
        {"type": "reply", "text": WORDS, "finish_reason": "length"},)),
    Case(name="more than it reads", behaves=(), attempts=REFUSED, text="sales " * (WINDOW + 1000)),
)  # fmt: skip


def nobody_forgotten(verdict: Verdict) -> None:
    """What llmock could do is done: a way that it learns is one that is missing here."""
    done = [behavior for case in CASES for behavior in case.behaves]
    for what, known in (
        ("type", set(scenarios._TYPE_NAMES)),
        ("kind", {*get_args(scenarios.StreamFaultKind), *get_args(scenarios.ToolFaultKind)}),
    ):
        missing = known - {behavior.get(what) for behavior in done}
        verdict.check(not missing, f"llmock knows {what} {missing}, which nothing here does")
    limits = set(ratelimit.LimitSettings.__dataclass_fields__)
    verdict.check(limits == {"rpm", "tpm", "context_window"}, f"llmock knows other limits: {limits}")
