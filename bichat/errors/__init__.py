"""Every way bichat says no, drawn as a tree; the docstring is the message."""

from __future__ import annotations

import inspect
import math
from datetime import UTC, datetime, timedelta


class BichatError(Exception):
    """bichat could not do this."""

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        super().__init__(self.message())

    def message(self) -> str:
        """The docstring with the facts filled in: one plain sentence for a person."""
        return inspect.cleandoc(type(self).__doc__ or "").format(**self.facts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.facts)


def _rebuild(kind: type[BichatError], facts: dict[str, object]) -> BichatError:
    return kind(**facts)


# --- refused: the caller asked for something that will not be done --------------------------------


class Refused(BichatError):
    """bichat will not do this."""


class Invalid(Refused):
    """{field}: {reason}"""


class NotAuthenticated(Refused):
    """{reason}"""


class Forbidden(Refused):
    """This needs the role {role}."""


class NotOfThisPage(Forbidden):
    """This was not sent by this page as it is now: load it again, then try again."""


class NotFound(Refused):
    """There is no such {what}."""


class PreconditionFailed(Refused):
    """It is at version {version}, not at {expected}: read it again, then decide."""


class KeyReused(Refused):
    """This Idempotency-Key was used before with another request."""


class VersionRace(Refused):
    """Others keep writing to this: try again in a moment."""


class RateLimited(Refused):
    """Too many requests of this {whose}, at most {limit}: try again {when}."""

    def __init__(self, *, seconds: int = 1, **facts: object) -> None:
        super().__init__(**{"when": _when(seconds), **facts}, seconds=seconds)


class TokensSpent(RateLimited):
    """The tenant's questions took too many tokens, at most {limit}: ask again {when}."""


class BudgetSpent(RateLimited):
    """The tenant's budget is spent, {limit}: questions are answered again {when}."""


def _when(seconds: int) -> str:
    if seconds < 120:
        return f"in {seconds} s"
    if seconds <= 3600:
        return f"in {math.ceil(seconds / 60)} min"
    return f"after {datetime.now(UTC) + timedelta(seconds=seconds):%-d %B, %H:%M} UTC"


class StateForbids(Refused):
    """The dialogue's state forbids this."""


class IsDeleted(StateForbids):
    """The dialogue is deleted: restore it first."""


class IsArchived(StateForbids):
    """The dialogue is archived: unarchive it first."""


class NotRetryable(StateForbids):
    """Only a reply that failed or was cancelled can be retried; this one is {status}."""


class NotFailed(StateForbids):
    """Only a reply that failed can be queued again; this one is {status}."""


class UnderHold(StateForbids):
    """A legal hold forbids to forget this person: {holds}."""


class ChainBroken(StateForbids):
    """Event {version} of this dialogue is not what was once stored ({reason}): verify it."""


class ReplyNotDue(StateForbids):
    """There is no reply to start here: the question is {status}."""


class ReplyBusy(StateForbids):
    """Another question of this dialogue is being answered."""


class StaleAttempt(StateForbids):
    """Attempt {attempt} was given up: it may not write any more."""


# --- unavailable: the same request may work later -------------------------------------------------


class Unavailable(BichatError):
    """bichat cannot do this right now."""


class LogUnavailable(Unavailable):
    """The log cannot be written right now: {reason}"""


class LogRejected(Unavailable):
    """The log did not take this event: {reason}"""


class ReadsUnavailable(Unavailable):
    """The database cannot be read right now: {reason}"""


class LogUnreadable(Unavailable):
    """This dialogue cannot be read by this version of bichat: {reason}"""


class Overloaded(Unavailable):
    """Too many commands wait already: try again in a moment."""


class ReadModelBehind(Unavailable):
    """The read model has not caught up yet: try again in a moment."""


class DialogueParked(Unavailable):
    """This dialogue cannot be shown for now: something in it could not be read, and is being looked at."""


class PromptParked(Unavailable):
    """This prompt cannot be shown for now: something in it could not be read, and is being looked at."""


class BeingForgotten(Unavailable):
    """This person is being forgotten right now: try again in a moment."""


class NotSimilar(Unavailable):
    """Embeddings cannot be used: {why}"""


class Stopping(Unavailable):
    """This process is stopping: ask another."""


# --- the log: what a reader of events can meet -----------------------------------------------------


class EventUnreadable(BichatError):
    """Event {kind} at version {version} of {stream} cannot be read: {reason}"""
