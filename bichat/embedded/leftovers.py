"""Servers that an owner who was killed left behind: seen by where they live, waited for, then killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def clear_leftovers(directory: Path, program: str, patience: float = 10.0) -> None:
    """Wait until no `program` lives in `directory`; kill what still does after `patience` seconds.

    Servers need a moment to go after a kill -9 of what is above them. A number in a pid file is no
    proof of who they are: by now it may belong to someone else.
    """
    deadline = time.monotonic() + patience
    while found := _living_in(directory.resolve(), program):
        if time.monotonic() > deadline:
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            deadline += patience
        time.sleep(0.02)


def _living_in(home: Path, program: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == home and (process / "comm").read_text().strip() == program:
                found.append(int(process.name))
        except OSError:
            continue  # gone, or not ours to look at
    return found
