"""The calls that a model makes in its stream, put together from pieces that no two servers send alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import count

from bichat.errors.model import ModelNonsense
from bichat.model.request import Named, ToolCall
from bichat.model.wire import CallPart, clean

MOST = 32
"""Calls in one answer."""
LONGEST = 100_000
"""Characters of arguments in one answer."""
_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class _Call:
    def __init__(self, index: int | None) -> None:
        self.index, self.id, self.name = index, "", ""
        self.arguments: list[str] = []


class Calls:
    """Collects them. The index tells which call a piece is of, unless another id says otherwise."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._size = 0

    def take(self, parts: Iterable[CallPart]) -> None:
        """More pieces; raises `ModelNonsense` when they become too many."""
        for part in parts:
            call, told = self._of(part), part.function
            call.id = call.id or (part.id or "")[:65]
            if told:
                call.name = call.name or (told.name or "")[:65]
                call.arguments.append(told.arguments or "")
                self._size += len(told.arguments or "")
            if self._size > LONGEST or len(self._calls) > MOST:
                raise ModelNonsense(detail="it calls functions without end")

    def whole(self) -> tuple[ToolCall, ...]:
        """The calls, each with an id of its own; what has no name was none."""
        ids, calls = set[str](), list[ToolCall]()
        for call in self._calls:
            if name := clean(call.name):
                id_ = unused(call.id if _ID.fullmatch(call.id) else "", ids)
                ids.add(id_)
                calls.append(ToolCall(id_, Named(name, clean("".join(call.arguments)))))
        return tuple(calls)

    def _of(self, part: CallPart) -> _Call:
        for call in reversed(self._calls):
            same = part.index in (None, call.index)
            if same and (not part.id or not call.id or part.id == call.id):
                return call
            if same and part.id:
                break
        self._calls.append(_Call(part.index))
        return self._calls[-1]


def unused(id_: str, ids: Collection[str]) -> str:
    """`id_`, or one made up if it is empty or among `ids`: of nine letters, for some servers count them."""
    return id_ if id_ and id_ not in ids else next(i for n in count() if (i := f"call{n:05}") not in ids)
