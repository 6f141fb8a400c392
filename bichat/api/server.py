"""Runs the application: uvicorn on one socket, stopped cleanly within seconds whatever is open."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from litestar import Litestar

from bichat import tls
from bichat.api.call import Parts
from bichat.api.conversation import Streams
from bichat.api.protocol import Protocol
from bichat.config import Config
from bichat.errors.unusable import PortTaken, WrongSetting

GRACE = 8
"""Seconds that requests under way get to end after SIGTERM; streams end at once."""


log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn that ends open streams when it stops, and returns from SIGTERM instead of dying of it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the streams, then waits for the rest."""
        app: Litestar = self.config.app  # type: ignore[assignment]
        parts: Parts = app.state["parts"]
        streams: Streams = app.state["streams"]
        streams.stop(parts.deltas)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, without raising the signal again: the caller has more to close."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `PortTaken` or `WrongSetting`. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortTaken(host=host, port=port) from None
        raise WrongSetting(name="BICHAT_HOST", reason=f"{host} is no address of this machine") from None


def server(app: Litestar, shown: ssl.SSLContext | None = None) -> Server:
    """A server for `app`, to be run with `run(sockets=[listen(…)])`; `should_exit = True` stops it.

    `shown`: it speaks TLS, with the certificate in there.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=Protocol,
        ssl_context_factory=(lambda *_: shown) if shown else None,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # `observed` writes one that is richer, and without the query
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
    )
    return Server(config)


def run(app: Litestar, config: Config) -> None:
    """Serves until SIGTERM or Ctrl-C; raises `PortTaken` or `WrongSetting`."""
    shown = tls.serving(config)
    sock = listen(config.bichat_host, config.bichat_port)
    if shown:
        signal.signal(signal.SIGHUP, lambda *_: _show_anew(shown, config))
    server(app, shown).run(sockets=[sock])


def _show_anew(shown: ssl.SSLContext, config: Config) -> None:
    """For certificates that are renewed; those who are connected stay so."""
    try:
        tls.load(shown, config)
    except WrongSetting as error:
        log.warning("the certificate stays as it was: %s", error)
    else:
        log.info("the certificate was read anew")
