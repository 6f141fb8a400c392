"""Who runs the servers: we ourselves, or, as root (which Postgres refuses), an existing unprivileged user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any, NamedTuple

from bichat.errors.unusable import PartFailed


class Account(NamedTuple):
    """A user to drop to, or (`uid` is `None`) the one we are."""

    uid: int | None = None
    gid: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What makes `subprocess` start a child as this user."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give the file to this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Whether this user may go where the file is; the file itself is taken to be readable."""
        return self.uid is None or all(parent.stat().st_mode & 0o001 for parent in path.parents)


def account_for_servers(home: Path) -> Account:
    """We ourselves; as root whose `home` is already, else `postgres`, else `nobody`.

    Raises `PartFailed` where there is nobody to be.
    """
    if os.geteuid() != 0:
        return Account()
    if home.exists() and (who := home.stat()).st_uid != 0:
        return Account(who.st_uid, who.st_gid)
    known = {entry.pw_name: Account(entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return known[name]
    raise PartFailed(part="Postgres", reason="it refuses to run as root, and there is no user 'nobody'")
