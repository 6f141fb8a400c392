"""Turns whatever went wrong into an RFC 9457 problem document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from litestar import Response
from msgspec import Meta, Struct, field

from bichat.api.schemas import REASONS
from bichat.errors import Invalid

PROBLEM_JSON = "application/problem+json"
LONGEST = 100
"""Characters of a stranger's field name that are said back."""
PRIVATE = {"Cache-Control": "private, no-store"}


class FieldError(Struct, frozen=True):
    """One field of the request that was refused, and why."""

    field: str
    reason: str


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong; `type` ends in the error's name."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    instance: str = ""
    errors: list[FieldError] = field(default_factory=list)


def problem(
    name: str,
    status: int,
    detail: str,
    *,
    path: str = "",
    errors: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """The answer for the error called `name`, in CamelCase."""
    body = Problem(
        type=f"urn:bichat:error:{name}",
        title=re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize(),
        status=status,
        detail=detail,
        instance=path,
        errors=errors or [],
    )
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=PROBLEM_JSON,
        headers={**PRIVATE, **(headers or {})},
    )


_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?:key in )?\$\.?(?P<place>.*)`)?$", re.DOTALL)
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>'.*'|\".*\")$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)


def refused(error: msgspec.ValidationError, where: str = "body") -> Invalid:
    """msgspec's "reason - at `$.place`" as a refusal that names the field."""
    found = _PLACE.match(str(error))
    reason, place = (found["reason"], found["place"] or "") if found else (str(error), "")
    for pattern, told in ((_UNKNOWN, "is not a field here"), (_MISSING, "is required")):
        if named := pattern.match(reason):
            place, reason = f"{place}.{named[1]}".strip("."), told
    return Invalid(field=place[:LONGEST] or where, reason=_plain(reason))


def _plain(reason: str) -> str:
    """In our words, and not the whole of what was sent."""
    if _PATTERN.match(reason):
        return next(
            (told for pattern, told in REASONS.items() if repr(pattern) in reason), "has a wrong form"
        )
    return reason.replace("`", "").replace("Expected", "must be", 1).replace("got", "not")[: 2 * LONGEST]


def fields_of(extra: Any, names: Mapping[str, str]) -> list[FieldError]:
    """litestar's list of validation errors as ours; `names` are those that clients know parameters by."""
    if isinstance(extra, list) and [entry.get("key") for entry in extra] == ["data"]:
        return [FieldError("body", "is required")]
    found = []
    for entry in extra if isinstance(extra, list) else ():
        key = str(entry.get("key") or entry.get("source") or "request")
        found.append(FieldError(names.get(key, key), _plain(str(entry.get("message", "")))))
    return found
