"""Who is looking at the page: a token in a cookie, and proof that what is sent comes from the page."""

from __future__ import annotations

import hmac
import re
import time
from hashlib import sha256
from urllib.parse import urlsplit

from litestar.datastructures import Cookie

from bichat.api.allowance import Allowance
from bichat.api.auth import Caller, Verifier
from bichat.api.observed import admitted
from bichat.api.page.visit import Visit
from bichat.errors import Forbidden, Invalid, NotAuthenticated, NotOfThisPage

PATH = "/bi-chat"
SESSION = "bichat_session"
KNOWN = "bichat_known"
"""Outlives the session by a day, so that its end can be told from its absence; says nothing else."""
_DAY = 86_400
_TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,3800}")
"""What a browser keeps in one cookie, 4096 bytes with its name and attributes."""
_SAFE = ("GET", "HEAD", "OPTIONS")


async def receive(request: Visit) -> None:
    """What is looked at first: only who is signed in comes further, and only the page changes anything."""
    await receive_stranger(request)
    request.scope["user"] = _caller(request)
    admitted(request)
    allowance: Allowance = request.app.state["allowance"]
    await allowance.request(request.user)
    if request.method not in _SAFE:
        given = request.headers.get("X-CSRF-Token") or request.fields.get("csrf", "")
        if not hmac.compare_digest(given.encode(), csrf(request).encode()):
            raise NotOfThisPage


async def receive_stranger(request: Visit) -> None:
    """The same for who has still to sign in: a form of another site must not sign anybody in."""
    if request.method not in _SAFE:
        await request.read_form()
        if not _same_origin(request):
            raise NotOfThisPage


def csrf(request: Visit) -> str:
    """What forms of this session carry: only who can read the cookie, or the page, can know it."""
    token = request.cookies.get(SESSION, "")
    return hmac.new(token.encode(), b"bichat page", sha256).hexdigest()


def opened(request: Visit, given: str) -> list[Cookie]:
    """The cookies of a session with the token that a person pasted; raises `NotAuthenticated`, `Invalid`."""
    token = given.strip().removeprefix("Bearer ").strip()
    if not token:
        raise Invalid(field="token", reason="is missing")
    caller = _verified(request, token)
    if not _TOKEN.fullmatch(token):
        raise Invalid(field="token", reason="is too long to be kept by a browser")
    left = int(caller.expires - time.time())
    return [_cookie(request, SESSION, token, left), _cookie(request, KNOWN, "1", left + _DAY)]


def closed(request: Visit) -> list[Cookie]:
    """The cookies of nobody."""
    return [_cookie(request, name, "", 0) for name in (SESSION, KNOWN)]


def _caller(request: Visit) -> Caller:
    token = request.cookies.get(SESSION)
    if token:
        return _verified(request, token)
    over = KNOWN in request.cookies
    raise NotAuthenticated(reason="Your session has ended: sign in again." if over else "Sign in first.")


def _verified(request: Visit, token: str) -> Caller:
    verifier: Verifier = request.app.state["verifier"]
    caller = verifier.caller(f"Bearer {token}")
    if "user" not in caller.roles:
        raise Forbidden(role="user")
    return caller


def _same_origin(request: Visit) -> bool:
    """By the browser's own word, which a page elsewhere cannot change."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("Origin", ""))
    return bool(origin.netloc) and origin.netloc.lower() == request.headers.get("Host", "").lower()


def _cookie(request: Visit, name: str, value: str, seconds: int) -> Cookie:
    # Lax, not strict: a link to a dialogue in somebody's mail works, and no GET here changes anything.
    return Cookie(
        name, path=PATH, value=value, max_age=seconds, secure=_encrypted(request), httponly=True,
        samesite="lax",
    )  # fmt: skip


def _encrypted(request: Visit) -> bool:
    """Also before a proxy that ends TLS: then the browser still says https in `Origin`."""
    return "https" in (request.scope["scheme"], urlsplit(request.headers.get("Origin", "")).scheme)
