"""A private directory with a short path: a socket's may have 100 bytes, a data directory's any number."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bichat.embedded.account import Account

_PLACE, _PREFIX = Path("/tmp"), "bichat-run-"  # noqa: S108  # a name that cannot be guessed, 0700
_SETTLED = 5.0
"""Seconds after which a directory that nobody holds is left over, and not about to be held."""


class Runtime:
    """Where the sockets are, and copies of programs that `account` cannot reach elsewhere.

    It is held by a lock for as long as we live; what others who were killed left behind is swept up.
    """

    def __init__(self, account: Account) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
        self._held = _hold(self.path)
        self.sockets = self.path / "sockets"
        self.sockets.mkdir(mode=0o700)
        if account.uid is not None:
            self.path.chmod(0o711)
        account.own(self.sockets)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._held)


def _hold(path: Path) -> int:
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held


def _sweep() -> None:
    for path in _PLACE.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is held, or has gone
            found = path.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _SETTLED:
                held = _hold(path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(held)
