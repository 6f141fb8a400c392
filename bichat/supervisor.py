"""`bichat serve`: every part as a child process, restarted when it dies, stopped in the right order."""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from bichat import logs, probe, tls, tracing, wiring
from bichat.config import Config, environment
from bichat.embedded import Part, Servers, owned, refuse_if_owned
from bichat.errors import BichatError
from bichat.errors.unusable import PortTaken, WrongSetting

log = logging.getLogger(__name__)

STOP_WITHIN = 9.5
"""Seconds from SIGTERM to the end, servers included."""
_FOR_SERVERS = 1.0
_LONGEST_WAIT = 30.0


class Supervised:
    """A part that is started again when it dies, after waits that grow from 0.5 s to 30 s."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._wait, self._started, self._due = 0.5, time.monotonic(), 0.0

    def look_after(self) -> None:
        """Start it again if it died and its wait is over; called often, returns soon."""
        now = time.monotonic()
        if self.part.exit_status is None:
            if now - self._started > 2 * _LONGEST_WAIT:
                self._wait = 0.5  # it has been well for long enough
            return
        if not self._due:
            status, wait = self.part.exit_status, self._wait
            log.warning("%s ended (status %s), starting it again in %.1f s", self.part.name, status, wait)
            self._due, self._wait = now + wait, min(2 * wait, _LONGEST_WAIT)
        elif now >= self._due:
            self._due, self._started = 0.0, now
            try:
                self.part.launch()
            except (BichatError, OSError) as error:
                log.warning("%s", error)


def serve(config: Config, say: Callable[[Config, str], None]) -> None:
    """Run everything until SIGTERM or Ctrl-C; `say` is called with the address once it answers.

    Raises `PortTaken`, `DataDirectoryTaken`, `PartFailed` and what `wiring.migrate` raises.
    """
    logs.begin(config.bichat_log)
    tracing.check(config)
    tls.serving(config)
    refuse_if_owned(config)  # before the port: whoever owns the directory most often has that as well
    _check_port(config.bichat_host, config.bichat_port)
    stopping = _Stopping()
    with owned(config) as servers:
        wiring.migrate(servers.config)
        if not _filled(servers.config, stopping):
            return
        _empty(_counts(config))
        api = _api(servers.config)
        worker, projector = (_verb(servers.config, verb) for verb in ("worker", "projector"))
        try:
            for part in (worker, projector, api):
                part.launch()
            api.wait_until_ready(unless=lambda: bool(stopping))
            if not stopping:
                servers.answers_at(probe.address(config), config.bichat_tls_cert)
                say(servers.config, probe.address(config))
            _watch([*servers.parts, worker, projector, api], stopping)
        finally:
            _stop(servers, first=[api, worker], then=[projector])


class _Asked(Exception):
    """To stop."""


def _filled(config: Config, stopping: _Stopping) -> bool:
    """Whether the read models that this code has in a new shape are there; not, when it was asked to stop."""

    def progress(step: str, done: int, total: int) -> None:
        if stopping:
            raise _Asked
        if done in (0, total):
            log.info("The read models get a new shape: %s, %d of %d", step, done, total)

    try:
        wiring.fill(config, progress)
    except _Asked:
        return False
    return True


class _Stopping:
    """True once SIGTERM, Ctrl-C or the end of the terminal asked for it."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


def _watch(parts: list[Part], stopping: _Stopping) -> None:
    supervised = [Supervised(part) for part in parts]
    while not stopping:
        for one in supervised:
            one.look_after()
        time.sleep(0.1)


def _stop(servers: Servers, *, first: list[Part], then: list[Part]) -> None:
    """What answers people and models first, while the read models still follow; the servers last."""
    deadline = time.monotonic() + STOP_WITHIN - _FOR_SERVERS
    for group, reserve in ((first, 0.5), (then, 0.0)):
        for part in group:
            part.ask_to_stop()
        for part in group:
            part.stop(deadline - reserve - time.monotonic())
    servers.stop(_FOR_SERVERS)


def _verb(config: Config, verb: str) -> Part:
    # One scrape of the API shows all parts, so they need no ports.
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(_counts(config)), "BICHAT_METRICS_PORT": ""}
    part = Part(verb, [sys.executable, "-m", "bichat", verb], env=environment(config) | shared)
    part.before = partial(mark_process_dead, verb, shared["PROMETHEUS_MULTIPROC_DIR"])
    part.orphaned_with = signal.SIGKILL  # the port must be free when we are started again
    return part


def _counts(config: Config) -> Path:
    """Where the parts keep what they count."""
    return config.bichat_data_dir.absolute() / "metrics"


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def _api(config: Config) -> Part:
    part = _verb(config, "api")
    part.ready = lambda: probe.answers(config)
    return part


def _check_port(host: str, port: int) -> None:
    """Raises `PortTaken` or `WrongSetting` before anything is started."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortTaken(host=host, port=port) from None
        raise WrongSetting(name="BICHAT_HOST", reason=f"{host} is no address of this machine") from None
