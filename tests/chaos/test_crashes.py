"""A part that crashes is seen, also when another one has taken its place."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from bench.stack import Stack


def ended(by: signal.Signals) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", f"import os; os.kill(os.getpid(), {by.value})"])
    process.wait(30)
    return process


def test_a_crash_is_told_from_what_was_sent_and_not_forgotten(tmp_path: Path) -> None:
    made = Stack("", "", "", tmp_path)
    made.processes["api"] = ended(signal.SIGKILL)
    assert made.crashed() == {}
    made.processes["projector"] = ended(signal.SIGSEGV)
    made.start("projector", "--help")
    made.processes["projector"].wait(30)
    assert made.crashed() == {"projector": signal.SIGSEGV}
