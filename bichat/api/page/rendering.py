"""Templates as answers: escaped, never kept by a cache, and allowed nothing that is not the page's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from anyio import to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import MediaType, Response
from litestar.datastructures import Cookie
from markupsafe import Markup
from uuid_utils.compat import uuid7

from bichat.api.page import markdown, session
from bichat.api.page.visit import Visit
from bichat.api.problems import PRIVATE

POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, browsers say `Origin: null` even when our own forms are sent.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HEADERS = {**PRIVATE, **SAFE, "Vary": "Accept"}


def _moment(at: datetime) -> Markup:
    """A time as everybody can read it; the page's script shows it in the reader's own zone."""
    told = f"{at:%-d %b %Y, %H:%M} UTC"
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), told)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("bichat.api.page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters |= {"markdown": markdown.html, "moment": _moment}
    made.globals |= {"new_key": lambda: str(uuid7())}
    return made


_TEMPLATES = _environment()


async def shown(
    request: Visit, template: str, *, cookies: Sequence[Cookie] = (), **facts: Any
) -> Response[str]:
    """A page, or a piece of one. Rendered beside the event loop: fifty long answers take their time."""
    body = await to_thread.run_sync(lambda: text(request, template, facts))
    return Response(body, media_type=MediaType.HTML, cookies=list(cookies))


def text(request: Visit, template: str, facts: Mapping[str, Any]) -> str:
    """The template with its facts and what every page knows."""
    return _TEMPLATES.get_template(template).render(csrf=session.csrf(request), **facts)


def moved(path: str, cookies: Sequence[Cookie] = ()) -> Response[None]:
    """What a form is answered with: the page to go on with."""
    return Response(
        None, status_code=303, headers={"Location": path}, cookies=list(cookies),
        media_type=MediaType.TEXT,
    )  # fmt: skip
