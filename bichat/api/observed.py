"""What is kept of every request: its id, its span in a trace, and one line in the log when it is over."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.types import (
    HTTPScope,
    LifeSpanReceive,
    LifeSpanScope,
    LifeSpanSend,
    Message,
    Receive,
    Scope,
    Send,
)
from msgspec import Struct
from uuid_utils.compat import uuid7

from bichat import logs, metrics, tracing
from bichat.api.auth import Caller

if TYPE_CHECKING:
    from bichat.tracing import Span

PROBES = ("/health/", "/metrics")
"""Asked every few seconds by machines: neither traced nor logged."""

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)


class Application(Litestar):
    """litestar, observed from outside: refusals, CORS and what nobody routes are requests too.

    The library's own middleware for traces is not used: it records addresses with their queries, in which
    people's words may stand.
    """

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """One request from its first byte to its last, or the life of the application."""
        if scope["type"] == ScopeType.HTTP:
            await self._observed(scope, receive, send)  # type: ignore[arg-type]
        else:
            await super().__call__(scope, receive, send)

    async def _observed(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        began, headers, status = time.perf_counter(), dict(scope["headers"]), 0
        request_id = _request_id(headers.get(b"x-request-id", b""))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                metrics.answered(scope["method"], _route(scope), status, time.perf_counter() - began)
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with logs.about(request_id=request_id) as ids:
            if scope["path"].startswith(PROBES):
                await super().__call__(scope, receive, answer)
                return
            parent = headers.get(b"traceparent", b"").decode("latin-1")
            with tracing.span(scope["method"], "server", parent=parent) as span:
                if span:
                    ids["trace_id"] = tracing.traceparent()[3:35]
                try:
                    await super().__call__(scope, receive, answer)
                finally:
                    _over(Seen(scope["method"], _route(scope), status, began), ids, span)


class Seen(Struct, frozen=True):
    """A request that is over."""

    method: str
    route: str
    """Its template; "-" when there is none."""
    status: int
    """0: nothing was answered before the client left."""
    began: float


def admitted(request: Request[Caller, Any, Any]) -> None:
    """From here on it is known for whom this is done, and in which dialogue."""
    ids: dict[str, UUID] = {"tenant_id": request.user.tenant_id}
    with suppress(KeyError, ValueError):  # not about one, or what is no id is refused later
        ids["dialogue_id"] = UUID(request.path_params["dialogue_id"])
    logs.note(**ids)


def _over(seen: Seen, ids: Mapping[str, object], span: Span | None) -> None:
    spent = round(1000 * (time.perf_counter() - seen.began), 1)
    told = {"method": seen.method, "route": seen.route, "status": seen.status, "milliseconds": spent}
    log.info("%s %s %d %.1f ms", *told.values(), extra=told)
    if span:
        _fill(span, seen, ids)


def _fill(span: Span, seen: Seen, ids: Mapping[str, object]) -> None:
    span.set_attribute("http.request.method", seen.method)
    if seen.route != "-":
        span.update_name(f"{seen.method} {seen.route}")
        span.set_attribute("http.route", seen.route)
    if seen.status:
        span.set_attribute("http.response.status_code", seen.status)
    if seen.status >= 500:
        tracing.failed(span, str(seen.status))
    span.set_attributes({f"bichat.{name}": str(ids[name]) for name in _TRACED if name in ids})


_TRACED = ("tenant_id", "dialogue_id", "command_id")


def _request_id(given: bytes) -> str:
    """The client's if it is one that can do no harm, else a new one."""
    return given.decode() if _ID.fullmatch(given) else str(uuid7())


def _route(scope: HTTPScope) -> str:
    return _template(scope.get("path_template", "-"))


@cache
def _template(path: str) -> str:
    """Without the types of its parameters."""
    return re.sub(r":\w+}", "}", path)
