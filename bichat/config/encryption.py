"""What goes to another machine goes encrypted, unless a setting says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from itertools import zip_longest
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import certifi

from bichat.config import values
from bichat.errors.unusable import WrongSetting

_OTHERWISE = "it is on another machine: use {secure}, or say BICHAT_PLAINTEXT=on"


def refuse_plaintext(name: str, url: str) -> None:
    """Raises `WrongSetting` when `url` leads to another machine and is not encrypted."""
    parts = urlsplit(url)
    secure = {"redis": "rediss://", "http": "https://"}.get(parts.scheme)
    host = parts.hostname or parse_qs(parts.query).get("host", [""])[0]
    if secure and not _here(host):
        raise WrongSetting(name=name, reason=_OTHERWISE.format(secure=secure))


def postgres(name: str, url: str, environ: Mapping[str, str]) -> str:
    """`url`, with `sslmode=verify-full` in it when it leads to another machine and says nothing of that.

    Encrypted and not verified (`require`) would be readable to whoever can put himself in between, so that
    has to be asked for. Who signed the server's certificate is looked up where libpq would look, and else
    among the authorities that HTTPS is checked with.
    """
    said = values.said(name, url)
    if "sslmode" in said or "PGSSLMODE" in environ or not _leads_away(said, environ):
        return url
    more = {"sslmode": "verify-full"}
    if "sslrootcert" not in said and "PGSSLROOTCERT" not in environ and not _own_authorities(environ):
        more["sslrootcert"] = certifi.where()
    # Not put together anew: that would lose the slashes of a URL without a host. A "?" may be in a name.
    for joint in "?&":
        with suppress(WrongSetting):
            longer = f"{url}{joint}{urlencode(more, quote_via=quote)}"
            if values.said(name, longer) == said | more:
                return longer
    raise WrongSetting(name=name, reason=_OTHERWISE.format(secure="sslmode=verify-full"))


def _leads_away(said: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether one of the servers that libpq may connect to is not on this machine.

    A service's file is not read: it may lead anywhere, with an address for whatever host is named.
    """
    named = said.get("host") or environ.get("PGHOST", "")
    addresses = said.get("hostaddr") or environ.get("PGHOSTADDR", "")
    if not addresses and (said.get("service") or environ.get("PGSERVICE")):
        return True
    # Where there is an address, that is connected to, and the name is only what the certificate must say.
    servers = zip_longest(named.split(","), addresses.split(","), fillvalue="")
    return any(not _here(address or host) for host, address in servers)


def _here(host: str) -> bool:
    """Whether this is a unix socket, or an address of this machine that nobody else can listen at."""
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _own_authorities(environ: Mapping[str, str]) -> bool:
    home = environ.get("HOME", "")
    return bool(home) and (Path(home) / ".postgresql" / "root.crt").exists()
