"""One program of ours as a direct child process: it dies when we die, and says why it did not start."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bichat.embedded.account import Account
from bichat.errors.unusable import PartFailed

_PR_SET_PDEATHSIG = 1


class Part:
    """A child process: how it is started, how one sees that it is ready, how it is stopped.

    Always started from the main thread: the kernel's parent-death signal fires when the *thread*
    that forked ends. It runs in a session of its own, so that Ctrl-C reaches us and not it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[object],
        *,
        log: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.stop_with = signal.SIGTERM
        self.orphaned_with: signal.Signals | None = None
        """What it gets when we are killed; `None`: what stops it."""
        self.memory: int | None = None
        """Bytes that each process of it may have for itself, where the kernel sees to that; `None`: any."""
        self.before: Callable[[], None] = lambda: None
        """What to do before each start."""
        self.ready: Callable[[], bool] = lambda: True
        """Whether it is ready, asked until it is."""
        self._argv = [str(word) for word in argv]
        self._log, self._cwd, self._env, self._account = log, cwd, env, account or Account()
        self._process: subprocess.Popen[bytes] | None = None
        self._said_before = 0

    @property
    def pid(self) -> int | None:
        """Its process id, once started."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> int | None:
        """How it ended (negative: by which signal), `None` while it runs or before it was started."""
        return self._process.poll() if self._process else None

    def start(self, patience: float = 60.0) -> None:
        """Start it and wait until it is ready, at most `patience` seconds; raises `PartFailed`."""
        self.launch()
        self.wait_until_ready(patience)

    def launch(self) -> None:
        """Start it; raises `PartFailed` when there is no such program."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{self.name} must be started from the main thread")
        self.before()
        self._said_before = self._log.stat().st_size if self._log and self._log.exists() else 0
        self._process = self._spawn()

    def wait_until_ready(self, patience: float = 60.0, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until it is ready or `unless` says so; stops it and raises `PartFailed` if it never is."""
        deadline = time.monotonic() + patience
        while not self.ready() and not unless():
            late = time.monotonic() > deadline
            if late or self.exit_status is not None:
                self.stop(2.0)
                raise PartFailed(part=self.name, reason=self._last_words(late=late))
            time.sleep(0.01)

    def ask_to_stop(self) -> None:
        """Send the signal that stops it, and return."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(self.stop_with)

    def stop(self, patience: float) -> None:
        """Stop it; what has not stopped after `patience` seconds is killed."""
        self.ask_to_stop()
        if self._process is None:
            return
        try:
            self._process.wait(max(patience, 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        log = self._log.open("ab") if self._log else None
        try:
            return subprocess.Popen(  # noqa: S603  # our own programs, no shell
                self._argv,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log and subprocess.STDOUT,
                start_new_session=True,
                **self._account.options,
                # Runs after the change of user, which would clear the signal; we have no threads yet.
                preexec_fn=_prepared(self.orphaned_with or self.stop_with, self.memory),  # noqa: PLW1509
            )
        except OSError as error:
            raise PartFailed(part=self.name, reason=f"{error.filename}: {error.strerror}") from error
        finally:
            if log:
                log.close()

    def _last_words(self, *, late: bool) -> str:
        if not self._log:
            return "it does not answer" if late else "it ended at once"
        with self._log.open("rb") as log:
            log.seek(self._said_before)
            lines = log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()] or ["it said nothing"]
        return f"{next((line for line in said if 'FATAL' in line), said[-1])} (more in {self._log})"


def _prepared(with_signal: signal.Signals, memory: int | None) -> Callable[[], None]:
    """What a child runs between fork and exec: it ends when its parent's thread does, and is bounded."""
    if sys.platform != "linux":  # elsewhere the next start finds and ends what was left running
        return lambda: None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask_the_kernel() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        prctl(_PR_SET_PDEATHSIG, int(with_signal))
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask_the_kernel
