"""One request of a browser: who is looking, and the fields of the form that was sent."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from bichat.api.call import Call
from bichat.api.problems import refused
from bichat.errors import Invalid, NotFound

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 20

S = TypeVar("S")


class Visit(Call):
    """A request to the page. Forms have no headers: an Idempotency-Key is the field `key`."""

    @property
    def fields(self) -> dict[str, str]:
        """What the form says; nothing before `read_form`, and for a request without one."""
        fields: dict[str, str] = self.state.get("fields", {})
        return fields

    async def read_form(self) -> None:
        """Reads `fields`; raises `Invalid`."""
        body = await self.body()
        if not body:
            return
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise Invalid(field="Content-Type", reason=f"must be {FORM}")
        try:
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict",
                max_num_fields=MOST_FIELDS,
            )  # fmt: skip
        except ValueError:
            raise Invalid(field="body", reason="is not a form") from None
        # Browsers send the lines of a text with CR LF, whatever was typed.
        self.state["fields"] = {name: value.replace("\r\n", "\n") for name, value in pairs}

    def said(self, kind: type[S], **fields: Any) -> S:
        """Fields as the struct that the API takes; raises `Invalid`."""
        try:
            return msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            raise refused(error) from None

    @property
    def by_script(self) -> bool:
        """Whether the page's script asks, which reads JSON, and not the browser, which shows a page."""
        return "text/html" not in self.headers.get("accept", "")

    def _header(self, name: str) -> str | None:
        if name == "Idempotency-Key" and (key := self.fields.get("key")):
            return key
        return super()._header(name)


def id_of(text: str, what: str = "dialogue") -> UUID:
    """An id in an address; what is none is nowhere to be found."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(what=what) from None
