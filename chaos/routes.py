"""The routes of the OpenAPI document, each with what a request to it needs: a new route comes by itself."""

from __future__ import annotations

import re
from typing import Any

import httpx
from llmock.schema import example_for
from msgspec import Struct

METHODS = ("get", "post", "put", "patch", "delete")
ROLES = ("user", "auditor", "ops", "operator")
BODIES: dict[str, list[dict[str, Any]]] = {
    "NewMessages": [{"content": "How much?"}, {"messages": [{"role": "user", "content": "How much?"}]}],
    "Wanted": [{"query": "Xylophon", "top_k": 50}],
    "NewHold": [{"user_id": "{user_id}", "reason": "why"}, {"dialogue_id": "{dialogue_id}", "reason": "why"}],
    "Forget": [{"user_id": "{user_id}"}],
}
"""Where there is a choice, or an id; the others are made from their schema."""


class Route(Struct, frozen=True):
    """A method at a path, with one of the bodies that it takes."""

    method: str
    path: str
    body: dict[str, Any] | None
    protected: bool

    @property
    def roles(self) -> tuple[str, ...]:
        """Those that the contract lets in."""
        path = self.path.removeprefix("/v1")
        if path.startswith("/audit"):
            return ("auditor",)
        if path.startswith(("/ops/projections", "/metrics")):
            return ("operator",)
        if path.startswith("/ops") or (path.startswith("/prompts") and self.method in ("put", "delete")):
            return ("ops",)
        return ("user", "ops") if path.startswith(("/prompts", "/usage")) else ("user",)

    @property
    def names(self) -> bool:
        """Whether it is about one thing that belongs to somebody."""
        said = "".join(map(str, (self.body or {}).values()))
        return "{" in self.path + said and "operator" not in self.roles

    def request(self, ids: dict[str, str]) -> tuple[str, str, Any]:
        """Method, path and body about these."""
        path = re.sub(r"{(\w+)}", lambda found: ids[found[1]], self.path)
        body = self.body and {
            name: value.format_map(ids) if isinstance(value, str) else value
            for name, value in self.body.items()
        }
        return self.method.upper(), path, body

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path} {self.body or ''}".rstrip()


def routes(api: httpx.Client) -> list[Route]:
    """All of them, what takes several bodies with each."""
    document = api.get("/schema/openapi.json").raise_for_status().json()
    return [
        Route(method, path, body, bool(operation.get("security")))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
        for body in bodies(operation, document)
    ]


def bodies(operation: dict[str, Any], document: dict[str, Any]) -> list[dict[str, Any] | None]:
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return [None]
    schema = content["application/json"]["schema"]
    name = schema["$ref"].rpartition("/")[2]
    made = example_for({"$ref": schema["$ref"], "components": document["components"]})
    return [*BODIES.get(name, [made])]
