"""Builds the HTTP application, and says which error is which status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler

from bichat import errors
from bichat.api import (
    audit,
    audit_proof,
    dialogues,
    erasures,
    health,
    holds,
    messages,
    metrics,
    ops,
    page,
    projections,
    prompts,
    search,
    stream,
    usage,
)
from bichat.api.allowance import Allowance
from bichat.api.auth import Verifier, admit
from bichat.api.call import Call, Parts
from bichat.api.conversation import Streams
from bichat.api.docs import complete, openapi, ui_file
from bichat.api.observed import Application, admitted
from bichat.api.parameters import query_names, refuse_unknown
from bichat.api.problems import PRIVATE, FieldError, fields_of, problem
from bichat.config import Config
from bichat.errors import unusable
from bichat.hot import Hot
from bichat.metrics import refused
from bichat.projections.standing import Watches

__all__ = ["Parts", "create_app"]

log = logging.getLogger(__name__)

STATUS: dict[type[errors.BichatError], int] = {
    errors.Invalid: 400,
    errors.NotAuthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.StateForbids: 409,
    errors.VersionRace: 409,
    unusable.RebuildRuns: 409,
    unusable.RebuildOutdated: 409,
    errors.PreconditionFailed: 412,
    errors.KeyReused: 422,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
}
HEADERS: dict[type[errors.BichatError], dict[str, str]] = {
    errors.NotAuthenticated: {"WWW-Authenticate": "Bearer"},
    errors.StateForbids: {"x-should-retry": "false"},
    unusable.RebuildRuns: {"x-should-retry": "false"},
    unusable.RebuildOutdated: {"x-should-retry": "false"},
    errors.KeyReused: {"x-should-retry": "false"},
    errors.VersionRace: {"Retry-After": "1"},
    errors.Unavailable: {"Retry-After": "1"},
}
_TOLD = (health.NotReady, errors.NotSimilar)
"""What ails a part of ours, in words that are for everybody."""
LITESTAR = {400: "Invalid", 404: "NotFound", 405: "MethodNotAllowed", 413: "TooLarge"}


def create_app(parts: Parts) -> Litestar:
    """The application over `parts`; raises `WrongSetting` when no token could be checked."""
    config = parts.config
    v1 = _with_token(
        "/v1",
        dialogues.router,
        messages.router,
        stream.router,
        usage.router,
        search.router,
        ops.router,
        projections.router,
        audit.router,
        audit_proof.router,
        erasures.router,
        holds.router,
        prompts.router,
    )
    watches = Watches(parts.reads)
    app = Application(
        [v1, health.router, _with_token("/", metrics.scrape), ui_file, page.front, page.router],
        request_class=Call,
        lifespan=[_open],
        state=State(
            {
                "parts": parts,
                "verifier": Verifier(config),
                "streams": Streams(),
                "watches": watches,
                "allowance": Allowance(config, parts.reads),
                "hot": Hot(config.redis_url) if config.bichat_cache and config.redis_url else None,
            }
        ),
        exception_handlers={HTTPException: page.as_page(of_litestar), Exception: page.as_page(of_bichat)},
        cors_config=_cors(config),
        openapi_config=openapi(),
        request_max_body_size=largest_body(config),
        logging_config=None,
        debug=False,
    )
    complete(app, longest=config.bichat_max_message_chars)
    return app


def _with_token(path: str, *handlers: ControllerRouterHandler) -> Router:
    """Routes for those who have one."""
    return Router(
        path,
        route_handlers=handlers,
        before_request=receive,
        response_headers=PRIVATE,
        security=[{"bearer": []}],
    )


@asynccontextmanager
async def _open(app: Litestar) -> AsyncIterator[None]:
    parts: Parts = app.state["parts"]
    await parts.reads.open()
    try:
        yield
    finally:
        await app.state["allowance"].close()
        if hot := app.state["hot"]:
            await hot.close()
        await parts.deltas.close()
        await parts.search.close()
        await parts.reads.close()


def largest_body(config: Config) -> int:
    """Bytes; a longest message of escaped emoji fits (12 bytes a character)."""
    return max(4_000_000, 12 * config.bichat_max_message_chars + 65_536)


def _cors(config: Config) -> CORSConfig | None:
    if not config.bichat_cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(config.bichat_cors_origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID",
            "X-Request-Id", "traceparent",
        ],
        expose_headers=[
            "ETag", "Idempotent-Replayed", "Location", "Retry-After", "x-should-retry", "X-Request-Id",
        ],
    )  # fmt: skip


async def receive(request: Request[Any, Any, Any]) -> None:
    """What is looked at first; not a litestar guard, which costs each request two copies of itself."""
    admit(request)
    admitted(request)
    allowance: Allowance = request.app.state["allowance"]
    await allowance.request(request.user)
    refuse_unknown(request)


def of_bichat(request: Request, error: Exception) -> Response[bytes]:  # type: ignore[type-arg]
    """The problem document of one of our errors, or of a mistake of ours."""
    path = request.scope["path"]
    kinds = type(error).__mro__
    status = next((STATUS[kind] for kind in kinds if kind in STATUS), None)
    if status is None:
        log.error("%s %r failed", request.scope["method"], path[:200], exc_info=error)
        return problem("InternalError", 500, "Something went wrong here; it was logged.", path=path)
    headers = next((HEADERS[kind] for kind in kinds if kind in HEADERS), None)
    if isinstance(error, errors.RateLimited):
        refused(error)
        headers = {"Retry-After": str(error.facts["seconds"])}
    named = []
    if isinstance(error, errors.Invalid):
        named = [FieldError(str(error.facts["field"]), str(error.facts["reason"]))]
    detail = str(error)
    if isinstance(error, errors.Unavailable) and error.facts and not isinstance(error, _TOLD):
        # What ails our servers is not for strangers.
        log.warning("%s %r: %s", request.scope["method"], path[:200], error)
        detail = errors.Unavailable().message()
    return problem(type(error).__name__, status, detail, path=path, errors=named, headers=headers)


def of_litestar(request: Request, error: HTTPException) -> Response[bytes]:  # type: ignore[type-arg]
    """The problem document of what litestar refuses by itself."""
    status, path = error.status_code, request.scope["path"]
    if status not in LITESTAR:
        return of_bichat(request, error)
    fields = fields_of(error.extra, query_names(request.route_handler) if error.extra else {})
    told = {
        400: "; ".join(f"{field.field}: {field.reason}" for field in fields) or error.detail,
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
        413: f"The body is larger than {request.app.request_max_body_size} bytes.",
    }
    return problem(LITESTAR[status], status, told[status], path=path, errors=fields, headers=error.headers)
