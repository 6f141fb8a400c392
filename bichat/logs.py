"""Log lines, as text or JSON: each says which request or reply it belongs to, and none what a person said."""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psycopg
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.msgspec import MsgspecFormatter

from bichat.errors import BichatError
from bichat.errors.model import ModelError

Form = Literal["text", "json"]
_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger(__name__)

_ids: ContextVar[dict[str, object] | None] = ContextVar("ids", default=None)


# --- what a line is about ----------------------------------------------------------------------------


@contextmanager
def about(**ids: object) -> Iterator[dict[str, object]]:
    """Lines written inside carry these ids, none from outside, and whatever `note` adds; yields them all."""
    held = dict(ids)
    before = _ids.set(held)
    try:
        yield held
    finally:
        _ids.reset(before)


def note(**ids: object) -> None:
    """Lines of the request or reply that is being worked on carry these ids as well from here on."""
    held = _ids.get()
    if held is not None:
        held.update(ids)


# --- how lines look ----------------------------------------------------------------------------------


def begin(form: Form = "text") -> None:
    """Everything that is logged goes to stderr in this form; may be called again with another."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if form == "text" else _Json())
    handler.addFilter(_prepare)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("bichat").setLevel(logging.INFO)
    for name in ("psycopg", "psycopg.pool"):  # the eventsourcing library silences them when it is imported
        logging.getLogger(name).setLevel(logging.WARNING)
    # Python's own way to report what nobody caught would quote whatever the error says.
    sys.excepthook = lambda *raised: log.critical("bichat ends with an error of its own", exc_info=raised)
    threading.excepthook = lambda a: log.critical(
        "a thread ends with an error of its own", exc_info=a.exc_value
    )


def _prepare(record: logging.LogRecord) -> bool:
    """Gives a record its ids and takes out what may quote a person; whether it is logged at all."""
    if record.levelno < logging.WARNING and not record.name.startswith("bichat"):
        return False  # a library asked to tell more would tell texts: OPENAI_LOG=debug prints whole requests
    if record.name == "asyncio":
        record.msg = str(record.msg).partition("\n")[0]  # below it, the repr of a task with its error's words
    if isinstance(record.args, tuple):
        record.args = tuple(described(a) if isinstance(a, BaseException) else a for a in record.args)
    record.__dict__.update(_ids.get() or {})
    return True


_EXTRA = frozenset({*RESERVED_ATTRS, "color_message", "taskName"})
"""What a record has beside its ids and extra values; the last two are uvicorn's and asyncio's."""
_SAID = frozenset({"method", "route", "status", "milliseconds"})
"""What the message of a request's line says already."""
_UNPRINTABLE = re.compile(
    r"[^\x20-\x7e\xa0-\U0010ffff]|[\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class _Text(logging.Formatter):
    """Time, level, logger and message, then `name=value`; nothing in them can pass for another line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without a traceback."""
        values = (f" {k}={v}" for k, v in record.__dict__.items() if k not in _EXTRA and k not in _SAID)
        return escaped(super().formatMessage(record) + "".join(values))

    def formatException(self, ei: _Raised) -> str:  # noqa: N802 - logging's name
        """The traceback, indented so that no line of it begins like a line of ours."""
        return "\n".join(f"    {escaped(line)}" for line in told(ei[1]))


class _Json(MsgspecFormatter):
    """One object a line."""

    def __init__(self) -> None:
        names = {"levelname": "level", "name": "logger", "exc_info": "error"}
        fields = ["levelname", "name", "message"]
        super().__init__(fields, rename_fields=names, reserved_attrs=list(_EXTRA), timestamp="time")

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """The object, without what many readers take for the end of a line."""
        try:
            line = super().jsonify_log_record(log_data)
        except UnicodeEncodeError:  # a lone surrogate
            texts = {name: escaped(value) for name, value in log_data.items() if isinstance(value, str)}
            line = super().jsonify_log_record(log_data | texts)
        return line if line.isascii() else _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)

    def formatException(self, ei: _Raised) -> str:  # noqa: N802 - logging's name
        """The traceback."""
        return "\n".join(told(ei[1]))


def escaped(text: str) -> str:
    """The text with every character that moves a cursor or ends a line written out."""
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# --- errors ------------------------------------------------------------------------------------------


def described(error: BaseException) -> str:
    """The error in one line without a person's text: the database and many others quote what they refuse."""
    kind = type(error).__name__
    match error:
        case ModelError():  # its words are those of a server that was sent people's text
            return f"{kind} ({error.code})"
        case BichatError():
            return str(error) or kind
        case psycopg.Error(sqlstate=str(state)):
            words = error.diag.message_primary if state[:2] in _OF_THE_SERVER else None
            return f"{kind} ({state})" + (f": {words}" if words else "")
        case psycopg.OperationalError() | OSError() | TypeError() | AttributeError() | ImportError():
            # About the machine or the program; a ValueError or a KeyError quotes what it met.
            return f"{kind}: {str(error).partition(chr(10))[0]}"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return f"{kind}: {cause}"
    raised = traceback.extract_tb(error.__traceback__)
    return f"{kind} in {Path(raised[-1].filename).name}, line {raised[-1].lineno}" if raised else kind


_OF_THE_SERVER = frozenset({"08", "25", "28", "3D", "40", "42", "53", "54", "55", "57", "58", "XX"})
"""SQLSTATE classes: connections, transactions, roles, syntax, resources, locks, shutdowns, its own faults."""


def told(error: BaseException | None, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """The lines of a traceback with each error as `described`, first the one that began it."""
    if error is None or id(error) in seen:
        return
    seen |= {id(error)}
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        yield from told(before, seen)
        yield "which led to:"
    for entry in traceback.format_tb(error.__traceback__):
        yield from entry.rstrip().splitlines()
    yield described(error)
    for one in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield "one of them:"
        yield from told(one, seen)
