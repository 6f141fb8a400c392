"""Why a backup cannot be made, or not be used: one line on stderr, exit status 1."""

from __future__ import annotations

from bichat.errors.unusable import Unusable


class BackupFailed(Unusable):
    """No backup was made: {reason}."""


class NotABackup(Unusable):
    """{path} cannot be restored: {reason}."""


class BackupDamaged(Unusable):
    """{path} is damaged, and nothing was done with it: {reason}."""


class BackupTooNew(Unusable):
    """{path} was made by bichat {made_by}, which is newer ({reason}): install that first."""


class RestoreRefused(Unusable):
    """Nothing was restored: {reason}."""


class RestoreUnfinished(Unusable):
    """A restore of the backup made at {made_at} was not finished: run `bichat restore DIR` with it again."""
