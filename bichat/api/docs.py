"""The OpenAPI document, and a page to try it that needs no internet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar, get
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.params import FromPath
from litestar.response import File

from bichat import __version__
from bichat.api.audit import AuditEvents, ModelAttempts, SentRequest
from bichat.api.audit_proof import Proof
from bichat.api.erasures import Erasure, Erasures, Forget
from bichat.api.health import Health
from bichat.api.holds import Hold, HoldReleased, Holds, NewHold
from bichat.api.ops import Questions
from bichat.api.problems import PROBLEM_JSON, Problem
from bichat.api.projections import Projection, Projections
from bichat.api.prompt import Prompt
from bichat.api.prompts import ChangedPrompt, NewPrompt, Prompts, Rendered, ToRender
from bichat.api.schemas import (
    Accepted,
    Changed,
    Dialogue,
    Dialogues,
    Messages,
    NewDialogue,
    NewLabel,
    NewMessages,
)
from bichat.api.search import Embedding, Results, ToEmbed, Wanted
from bichat.api.usage import Spending

FILES = "/schema/files"
UI = ("swagger-ui-bundle.js", "swagger-ui.css", "swagger-ui-standalone-preset.js")
STRUCTS = (
    Accepted, AuditEvents, Changed, Dialogue, Dialogues, Erasure, Erasures, Forget, Health, Hold,
    HoldReleased, Holds, Messages, ModelAttempts, NewDialogue, NewHold, NewLabel, NewMessages, Problem,
    Projection, Projections, Proof, Questions, SentRequest, Spending, Embedding, Results, ToEmbed, Wanted,
    ChangedPrompt, NewPrompt, Prompt, Prompts, Rendered, ToRender,
)  # fmt: skip


def openapi() -> OpenAPIConfig:
    """`/schema` is the page, `/schema/openapi.json` and `.yaml` the document."""
    return OpenAPIConfig(
        title="bichat",
        version=__version__,
        description=DESCRIPTION,
        path="/schema",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
        ),
        render_plugins=[
            SwaggerRenderPlugin(
                path="/",
                js_url=f"{FILES}/{UI[0]}",
                css_url=f"{FILES}/{UI[1]}",
                standalone_preset_js_url=f"{FILES}/{UI[2]}",
                favicon="",
            ),
            JsonRenderPlugin(),
            YamlRenderPlugin(),
        ],
    )


@get(f"{FILES}/{{name:str}}", include_in_schema=False)
async def ui_file(name: FromPath[str]) -> File:
    """One of Swagger UI's own files, out of the package that carries them."""
    package = find_spec("swagger_ui")  # only its files: nothing of it is imported
    if name not in UI or package is None or package.origin is None:
        raise NotFoundException
    return File(Path(package.origin).parent / "static" / name, content_disposition_type="inline")


def complete(app: Litestar, longest: int) -> None:
    """Says in the document what litestar leaves out: every refusal, the commands' headers, no other fields.

    `longest` is the most characters that a message may have.
    """
    document = app.openapi_schema
    # msgspec's own account of the structs: litestar's forgets `minimum: 0` and leaves objects open.
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    schemas["NewMessages"]["oneOf"] = [{"required": ["content"]}, {"required": ["messages"]}]
    schemas["NewMessages"]["dependentRequired"] = {"name": ["content"]}
    schemas["NewHold"]["oneOf"] = [{"required": ["user_id"]}, {"required": ["dialogue_id"]}]
    schemas["Wanted"]["oneOf"] = [{"required": ["query"]}, {"required": ["embedding"]}]
    for name, text in (("Wanted", "query"), ("ToEmbed", "text")):
        _limit(schemas[name]["properties"][text], longest)
    for text in ("content", "message"):
        for name in ("NewDialogue", "NewMessages", "GivenMessage"):
            _limit(schemas[name]["properties"].get(text, {}), longest)
    document.components.schemas = schemas
    for path, item in (document.paths or {}).items():
        for method in ("get", "post", "put", "patch", "delete"):
            operation = getattr(item, method)
            if operation and path.startswith("/v1/"):
                if path.startswith("/v1/audit/"):
                    _refusals(operation, 409)
                _complete(
                    operation, query=method == "get" or path in QUERIES, command=path not in NO_COMMANDS
                )
            elif operation:
                _refusals(operation, 400, *((401, 403, 429) if operation.security else (503,)))


def _limit(schema: dict[str, Any], longest: int) -> None:
    for kind in (schema, *schema.get("anyOf", ())):
        if kind.get("type") == "string":
            kind["maxLength"] = longest


def _complete(operation: Operation, *, query: bool, command: bool) -> None:
    _refusals(operation, 400, 401, 403, 404, 429, 503)
    if not command:
        _refusals(operation, 409)
    elif query and operation.request_body:
        _refusals(operation, 413)
    elif not query:
        _refusals(operation, 409, 412, 413, 422)
        operation.parameters = [*(operation.parameters or []), IDEMPOTENCY_KEY, IF_MATCH]
    operation.parameters = [*(operation.parameters or []), REQUEST_ID]
    for response in (operation.responses or {}).values():
        if isinstance(response, OpenAPIResponse):
            response.headers = {**(response.headers or {}), "X-Request-Id": REQUEST_ID_TOLD}


def _refusals(operation: Operation, *statuses: int) -> None:
    responses = operation.responses = operation.responses or {}
    for status in statuses:
        content = {PROBLEM_JSON: OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))}
        responses[str(status)] = OpenAPIResponse(description=SAYS[status], content=content)


SAYS = {
    400: "Malformed, or refused by validation; `errors` names the fields.",
    401: "No token, or not a good one.",
    403: "The token lacks the role.",
    404: "Not there, or not yours.",
    409: "Others keep writing to the dialogue, its state forbids this, or it is being done already.",
    412: "The dialogue has moved on from the version in If-Match.",
    413: "The body is too large.",
    422: "The Idempotency-Key was used with another request.",
    429: "Too many requests, or the tenant's tokens or budget are spent: not before Retry-After seconds.",
    503: "Not possible right now: try again after Retry-After seconds.",
}
QUERIES = ("/v1/search", "/v1/embeddings", "/v1/prompts/{name}/render")
"""What asks in a body, as texts and vectors are long."""
NO_COMMANDS = ("/v1/ops/projections/{name}/rebuild",)
"""What changes something but the log; asked for twice, it is done once."""
IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    param_in="header",
    description="The same key with the same request is done once, and answered as the first time.",
    schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=255, pattern="^[\\x20-\\x7E]+$"),
)
IF_MATCH = Parameter(
    name="If-Match",
    param_in="header",
    description="Only if the dialogue is still at this version.",
    schema=Schema(type=OpenAPIType.STRING, pattern='^"[0-9]{1,18}"$'),
)
REQUEST_ID = Parameter(
    name="X-Request-Id",
    param_in="header",
    description="Stands in the log's lines about this request; anything else is replaced by a new one.",
    schema=Schema(type=OpenAPIType.STRING, pattern="^[A-Za-z0-9._-]{1,64}$"),
)
REQUEST_ID_TOLD = OpenAPIHeader(
    description="The request's, or a new one: to be quoted to whoever reads the log.",
    schema=Schema(type=OpenAPIType.STRING),
)
DESCRIPTION = """\
Ask a question in a dialogue and its reply is written by a model, streamed word by word, and kept for good.
Commands answer once they are in the log; queries show it moments later, and wait for it with `min_version`
or `min_position`.
"""
