"""What the page shows when something is refused: one clear line, a way on, and what was typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from litestar import MediaType, Request, Response

from bichat.api.page.rendering import HEADERS, text
from bichat.api.page.session import PATH
from bichat.api.page.visit import Visit
from bichat.api.problems import Problem

Handler = Callable[[Request[Any, Any, Any], Any], Response[Any]]


def as_page(as_problem: Handler) -> Handler:
    """The handler that shows what `as_problem` makes a document of as a page, to browsers under /bi-chat."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        answer = as_problem(request, error)
        path = request.scope["path"]
        if path != PATH and not path.startswith(f"{PATH}/"):
            return answer
        visit = Visit(request.scope, request.receive)
        answer.headers.update(HEADERS)
        if visit.by_script:
            return answer
        told = msgspec.json.decode(answer.content, type=Problem)
        body = _page(visit, told)
        return Response(body, status_code=told.status, headers=answer.headers, media_type=MediaType.HTML)

    return handle


def _page(visit: Visit, told: Problem) -> str:
    line, typed = _line(told), visit.fields.get("message", "")
    if told.status == 401:
        to = str(visit.path_params.get("dialogue_id", ""))
        return text(visit, "signin.html", {"reason": line, "to": to, "text": typed})
    facts = {"told": told, "line": line, "text": typed, "action": visit.scope["path"]}
    return text(visit, "refused.html", facts)


def _line(told: Problem) -> str:
    """What is wrong, as a sentence."""
    if not told.errors:
        return told.detail
    [first, *_] = told.errors
    return f"The {first.field} {first.reason}.".replace("..", ".")
