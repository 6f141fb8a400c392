"""Why a process cannot start or a verb cannot be done: one line on stderr, exit status 1."""

from __future__ import annotations

from bichat.errors import BichatError


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
    """The data keys are wrapped with another key than BICHAT_MASTER_KEY (and BICHAT_OLD_MASTER_KEY)."""


class KeysMissing(Unusable):
    """The log has events, but its keys store is empty: check KEYS_DATABASE_URL, or `bichat keys restore`."""


class KeysDamaged(Unusable):
    """Damaged keys were not wrapped again (erase their people), so both master keys are needed: {named}"""


class SecretsLost(Unusable):
    """{path} is gone with the master key: put it back, or give BICHAT_MASTER_KEY and BICHAT_JWT_SECRET."""


class DataDirectoryTaken(Unusable):
    """{path} is in use by process {pid}: stop it, or set BICHAT_DATA_DIR to another directory."""


class PortTaken(Unusable):
    """Port {port} on {host} is taken: stop what uses it, or set BICHAT_PORT."""


class NothingHere(Unusable):
    """There is no bichat in {path}: go to its directory, or set DATABASE_URL or BICHAT_DATA_DIR."""


class NobodyServes(Unusable):
    """No `bichat serve` runs here: start it, or set BICHAT_URL and BICHAT_TOKEN."""


class NotReady(Unusable):
    """bichat is not ready at {url}."""


class PartFailed(Unusable):
    """{part} did not start: {reason}"""


class EventTooNew(Unusable):
    """Event {kind} v{version} at position {position} is newer than this code: install it first."""


class NotProven(Unusable):
    """Line {line} proves nothing: {reason}."""
