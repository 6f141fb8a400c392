"""How the values of settings are read: each is refused with its name and what it must be."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from bichat.errors.unusable import WrongSetting


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
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
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
        if parts.scheme not in schemes:
            raise WrongSetting(name=name, reason=f"must start with {' or '.join(s + '://' for s in schemes)}")
        return text

    return read


def one_server(name: str, text: str) -> str:
    """The URL of one Postgres server: libpq would take several, and connect to now this one, now that one."""
    url("postgresql", "postgres")(name, text)
    if "," in urlsplit(text).netloc or "," in parse_qs(urlsplit(text).query).get("host", [""])[0]:
        raise WrongSetting(name=name, reason="must name one server")
    return text


def origins(name: str, text: str) -> tuple[str, ...]:
    """Origins, separated by commas."""
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        url("http", "https")(name, origin)
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
