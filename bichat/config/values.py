"""How the values of settings are read: each is refused with its name and what it must be."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bichat.errors.unusable import WrongSetting

_WHOLE = re.compile(r"\d{1,18}", re.ASCII)
_HOST = re.compile(r"[a-z0-9._:%-]{1,255}", re.ASCII | re.IGNORECASE)


def text(name: str, text: str) -> str:
    """Any text but one with a NUL character."""
    if "\x00" in text:
        raise WrongSetting(name=name, reason="must not contain a NUL character")
    return text


def name(name: str, text: str) -> str:
    """A model's name: printable ASCII without spaces, at most 128 characters."""
    if not (1 <= len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text):
        raise WrongSetting(name=name, reason="must be printable ASCII without spaces, at most 128 characters")
    return text


def whole_number(low: int, high: int) -> Callable[[str, str], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(name: str, text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise WrongSetting(name=name, reason=f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def one_of(*words: str) -> Callable[[str, str], str]:
    """A reader of one of `words`."""

    def read(name: str, text: str) -> str:
        if text not in words:
            raise WrongSetting(name=name, reason=f"must be {' or '.join(words)}")
        return text

    return read


def on_off(name: str, text: str) -> bool:
    """`on` or `off`."""
    return one_of("on", "off")(name, text) == "on"


def url(*schemes: str) -> Callable[[str, str], str]:
    """A reader of URLs with one of `schemes`."""

    def read(name: str, text: str) -> str:
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise WrongSetting(name=name, reason="is not a URL") from None
        if not text.lower().startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise WrongSetting(name=name, reason=f"must start with {' or '.join(s + '://' for s in schemes)}")
        if not text.isprintable() or " " in text:
            raise WrongSetting(name=name, reason="is not a URL")
        if parts.scheme in ("http", "https") and not parts.hostname:
            raise WrongSetting(name=name, reason="names no host")
        return text

    return read


def host(name: str, text: str) -> str:
    """A host's name or address."""
    if not _HOST.fullmatch(text):
        raise WrongSetting(name=name, reason="must be the name or the address of a host")
    return text


def servers(name: str, text: str) -> str:
    """The URL of a Postgres server, or of several of which libpq takes the first that it reaches."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise WrongSetting(name=name, reason="must start with postgresql:// or postgres://")
    for port in said(name, text).get("port", "").split(","):
        if port and not (_WHOLE.fullmatch(port) and 1 <= int(port) <= 65_535):
            raise WrongSetting(name=name, reason="is not a URL that libpq can read")
    return text


def one_server(name: str, text: str) -> str:
    """The URL of one Postgres server: libpq would take several, and connect to now this one, now that one."""
    servers(name, text)
    named = said(name, text)
    if any("," in named.get(where, "") for where in ("host", "hostaddr")):
        raise WrongSetting(name=name, reason="must name one server")
    return text


def said(name: str, text: str) -> dict[str, str]:
    """What a Postgres URL says, as libpq reads it: no other parser agrees on all of them."""
    try:
        return {word: str(value) for word, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, ValueError):  # whose message has the URL, with the password in it
        raise WrongSetting(name=name, reason="is not a URL that libpq can read") from None


def origins(name: str, text: str) -> tuple[str, ...]:
    """Origins, separated by commas."""
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        parts = urlsplit(url("http", "https")(name, origin))
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            raise WrongSetting(name=name, reason="must be origins, as in https://www.example.com")
    if not origins:
        raise WrongSetting(name=name, reason="names no origin")
    return origins


def secret(name: str, text: str) -> str:
    """A text of at least 32 bytes."""
    if len(text.encode()) < 32:
        raise WrongSetting(name=name, reason="must be at least 32 bytes long")
    return text


def key(name: str, text: str) -> bytes:
    """32 bytes in base64."""
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise WrongSetting(name=name, reason="must be 32 bytes in base64 (openssl rand -base64 32)")
    return key


def pem_or_jwks(name: str, text: str) -> str:
    """PEM, a JWKS document, or what is in the file with this path."""
    if text.startswith(("-----BEGIN", "{")):
        return text
    try:
        return Path(text).read_text()
    except OSError as error:
        reason = f"is neither PEM, JWKS nor a readable file ({error.strerror})"
        raise WrongSetting(name=name, reason=reason) from None
