"""What schemathesis does here beside its own: it aims at what is there, and looks for what is not ours."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import schemathesis

AIM, FOREIGN = "CHAOS_AIM", "CHAOS_FOREIGN"
"""The file with the ids that are there, by parameter, and a word that stands in every foreign text."""


def aim() -> dict[str, list[str]]:
    """One's own things and others'."""
    found: dict[str, list[str]] = json.loads(Path(os.environ[AIM]).read_text())
    return found


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Two of three ids become those of something that is there; which, is the generated value's to say."""
    for name, there in aim().items():
        made = (case.path_parameters or {}).get(name)
        if made is not None:
            chosen = zlib.crc32(str(made).encode()) % (3 * len(there))
            if chosen < 2 * len(there):
                case.path_parameters[name] = there[chosen // 2]
    if case.path.endswith("/stream"):  # one that ends: the reply to a question, and not all that is to come
        case.query = {"message_id": aim()["message_id"][0]} | dict(case.query or {})


@schemathesis.check
def no_foreign_row(ctx: Any, response: Any, case: Any) -> None:
    """Nothing of another tenant, whatever was asked."""
    word = os.environ[FOREIGN]
    if word in response.text.replace(json.dumps(case.body, default=str), ""):
        raise AssertionError(f"it shows what is another tenant's: {word}")
