"""Whether the API answers on this machine, and where."""

from __future__ import annotations

import http.client

from bichat import tls
from bichat.config import Config

PATIENCE = 2.0
"""Seconds."""


def address(config: Config) -> str:
    """The URL under which this machine reaches the API."""
    scheme = "https" if config.serves_https else "http"
    host = _host(config)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.bichat_port}"


def answers(config: Config, path: str = "/health/live") -> bool:
    """Whether it says at `path` that all is well; raises `WrongSetting` for a certificate that is none."""
    line = _line(config)
    try:
        line.request("GET", path)
        return line.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


def _line(config: Config) -> http.client.HTTPConnection:
    if config.bichat_tls_cert is None:
        return http.client.HTTPConnection(_host(config), config.bichat_port, timeout=PATIENCE)
    return http.client.HTTPSConnection(
        _host(config), config.bichat_port, timeout=PATIENCE, context=tls.trusting(config.bichat_tls_cert)
    )


def _host(config: Config) -> str:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened at is not what is asked
    return everywhere.get(config.bichat_host, config.bichat_host)
