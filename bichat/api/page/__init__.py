"""The page at /bi-chat: bichat for people, in their browser; the same functions as the API, shown as HTML."""

from __future__ import annotations

from litestar import Router, get
from litestar.response import Redirect

from bichat.api.page import dialogues, messages, session, sessions, static, stream
from bichat.api.page.refusals import as_page
from bichat.api.page.rendering import HEADERS
from bichat.api.page.visit import Visit

__all__ = ["as_page", "front", "router"]


@get("/", include_in_schema=False)
async def front() -> Redirect:
    """Whoever opens the address alone is a person, who comes to the page."""
    return Redirect(session.PATH, status_code=307)


_signed_in = Router(
    "/",
    route_handlers=[dialogues.router, messages.router, stream.router],
    before_request=session.receive,  # type: ignore[arg-type]  # the request is the one of `request_class`
)
router = Router(
    session.PATH,
    route_handlers=[_signed_in, sessions.router, static.router],
    request_class=Visit,
    response_headers=HEADERS,
    include_in_schema=False,
)
