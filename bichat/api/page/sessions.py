"""Signing in with a token, and out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from litestar import Response, Router, get, post

from bichat.api.page import session
from bichat.api.page.rendering import moved, shown
from bichat.api.page.visit import Visit, id_of
from bichat.errors import Forbidden, Invalid, NotAuthenticated, NotFound, NotOfThisPage


@get("/sign-in")
async def ask(request: Visit) -> Response[str]:
    """The form for a token."""
    return await shown(request, "signin.html", reason="", to="", text="")


@post("/sign-in")
async def sign_in(request: Visit) -> Response[Any]:
    """Begins a session with the token, and goes where the person was going."""
    to = request.fields.get("to", "")
    try:
        cookies = session.opened(request, request.fields.get("token", ""))
    except NotOfThisPage:
        raise
    except (NotAuthenticated, Forbidden, Invalid) as error:
        kept = request.fields.get("text", "")
        answer = await shown(request, "signin.html", reason=str(error), to=to, text=kept)
        answer.status_code = 401
        return answer
    with suppress(NotFound):
        return moved(f"{session.PATH}/{id_of(to)}", cookies)
    return moved(session.PATH, cookies)


@post("/sign-out")
async def sign_out(request: Visit) -> Response[Any]:
    """Ends the session here; what the page kept in the browser goes with it."""
    answer = moved(f"{session.PATH}/sign-in", session.closed(request))
    answer.headers["Clear-Site-Data"] = '"storage"'
    return answer


router = Router(
    "/",
    route_handlers=[ask, sign_in, sign_out],
    before_request=session.receive_stranger,  # type: ignore[arg-type]  # the request is the page's
)
