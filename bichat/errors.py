"""Every way bichat says no, drawn as a tree; the docstring is the message."""

from __future__ import annotations

import inspect
import re


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


# --- refused: the caller asked for something that will not be done -------------------------------


class Refused(BichatError):
    """bichat will not do this."""


class Invalid(Refused):
    """{field}: {reason}"""


class NotAuthenticated(Refused):
    """{reason}"""


class Forbidden(Refused):
    """This needs the role {role}."""


class NotFound(Refused):
    """There is no such {what}."""


class PreconditionFailed(Refused):
    """The dialogue is at version {version}, not at {expected}: read it again, then decide."""


class KeyReused(Refused):
    """This Idempotency-Key was used before with another request."""


class VersionRace(Refused):
    """Others keep writing to this dialogue: try again in a moment."""


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


class ReplyNotDue(StateForbids):
    """There is no reply to start here: the question is {status}."""


class ReplyBusy(StateForbids):
    """Another question of this dialogue is being answered."""


class StaleAttempt(StateForbids):
    """Attempt {attempt} was given up: it may not write any more."""


# --- unavailable: the same request may work later ------------------------------------------------


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


class Stopping(Unavailable):
    """This process is stopping: ask another."""


# --- the model: what ends up in reply.failed -----------------------------------------------------


class ModelError(BichatError):
    """{detail}"""

    code = "model_error"
    """Of a kind: its name in snake case. It is stored, so a kind, like a fact, keeps its name."""

    def __init_subclass__(cls) -> None:
        cls.code = vars(cls).get("code") or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def retry_after(self) -> float | None:
        """Seconds that the model's server asked to be left alone for, if it did."""
        wait = self.facts.get("retry_after")
        return wait if isinstance(wait, float) else None


class ModelUnavailable(ModelError):
    """The model cannot be reached or is overloaded: {detail}"""


class ModelCutOff(ModelError):
    """The model's stream ended before the answer did: {detail}"""


class ModelNonsense(ModelError):
    """The model's stream could not be understood: {detail}"""


class ModelSilent(ModelError):
    """The model said nothing for {seconds} s."""


class ModelRefused(ModelError):
    """The model's server refused the request: {detail}"""


class ContextTooLong(ModelError):
    """The question alone is {tokens} tokens; the model is shown at most {budget}."""


class WorkerStopped(ModelError):
    """The worker stopped in the middle of the reply; another goes on."""


class WorkerLost(ModelError):
    """{attempts} attempts ended without a word from their worker."""


class QuestionParked(ModelError):
    """The question could not be queued: an operator has been told, ask again later."""

    code = "parked"


# --- unusable: the process cannot start or go on, exit status 1 ----------------------------------


class Unusable(BichatError):
    """bichat cannot run like this."""


class WrongSetting(Unusable):
    """{name}: {reason}"""


class DatabaseUnreachable(Unusable):
    """{name} cannot be reached: {reason}"""


class DatabaseLost(Unusable):
    """The database did not do it: {reason}. Try again."""


class Interrupted(Unusable):
    """The {work} was interrupted; {then}."""


class DatabaseUnsuitable(Unusable):
    """{reason}"""


class DatabaseTooNew(Unusable):
    """The database is at migration {found}, this bichat knows {known}: install the newer bichat."""


class ReadModelsMissing(Unusable):
    """The database has no {names}: run `bichat migrate` or, in use, `bichat projections rebuild {models}`."""


class RebuildOutdated(Unusable):
    """{name} has a build of newer code (fold {fold}, this is {ours}): do this with that."""


class ProcessFailed(Unusable):
    """{reason}"""


class RebuildRuns(Unusable):
    """{build} is being built already, since {since} by {runner} ({phase})."""


class RebuildStopped(Unusable):
    """The rebuild stopped: {reason}. {served}"""


class RebuildDiffers(Unusable):
    """{build} differs from the log, so the build that serves was left in place: {finding}"""


class RebuildParks(Unusable):
    """{build} cannot digest {count} dialogues that can be read today; --with-parked switches to it anyway."""


class NoWayBack(Unusable):
    """There is no other build of {name} to go back to."""


class BuildUnfit(Unusable):
    """{build} {reason}."""


class SwitchTimedOut(Unusable):
    """{build} was not switched to, because {reason}: try again."""


class DatabaseTooOld(Unusable):
    """The database is at migration {found}, this bichat needs {known}: run `bichat migrate`."""


class WrongMasterKey(Unusable):
    """BICHAT_MASTER_KEY is not the key that this database's data keys are wrapped with."""


class DataDirectoryTaken(Unusable):
    """{path} is in use by process {pid}: stop it, or set BICHAT_DATA_DIR to another directory."""


class PortTaken(Unusable):
    """Port {port} on {host} is taken: stop what uses it, or set BICHAT_PORT."""


class NothingHere(Unusable):
    """There is no bichat in {path}: go to its directory, or set DATABASE_URL or BICHAT_DATA_DIR."""


class NobodyServes(Unusable):
    """No `bichat serve` runs here: start it, or set BICHAT_URL and BICHAT_TOKEN."""


class PartFailed(Unusable):
    """{part} did not start: {reason}"""


# --- the log: what a reader of events can meet ---------------------------------------------------


class EventTooNew(Unusable):
    """Event {kind} v{version} at position {position} is newer than this code: install it first."""


class EventUnreadable(BichatError):
    """Event {kind} at version {version} of {stream} cannot be read: {reason}"""
