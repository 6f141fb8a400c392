"""The loop that seals the log: once a minute, when there is something new."""

from __future__ import annotations

import logging
import threading

import psycopg

from bichat.errors import BichatError
from bichat.events import schema
from bichat.events.proof import sealing
from bichat.events.proof.signing import Signer
from bichat.logs import described

EVERY = 60.0
"""Seconds between two seals: for so long an event is only chained to the one before it."""

log = logging.getLogger(__name__)


def run(database_url: str, signer: Signer, stop: threading.Event, every: float = EVERY) -> None:
    """Seals what is new until `stop` is set. What goes wrong is logged, and tried again the next time."""
    while True:
        try:
            with schema.connect(database_url) as connection:
                for seal in sealing.seal_all(connection, signer):
                    log.info("Sealed %d events: seal %d, root %s", seal.events, seal.number, seal.root.hex())
                    if stop.is_set():
                        return
        except (psycopg.Error, BichatError) as error:
            log.warning("The log was not sealed: %s", described(error))
        except Exception:  # read models are followed, whatever ails this
            log.exception("The log was not sealed")
        if stop.wait(every):
            return
