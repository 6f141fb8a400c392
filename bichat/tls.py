"""TLS: the certificate that the API shows, and trust in it by what runs beside it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from bichat.config import Config
from bichat.errors.unusable import WrongSetting

CERT, KEY = "BICHAT_TLS_CERT", "BICHAT_TLS_KEY"


def serving(config: Config) -> ssl.SSLContext | None:
    """What the API speaks TLS with; None: it does not. Raises `WrongSetting` when it could not."""
    if not config.serves_https:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load(context, config)
    return context


def load(context: ssl.SSLContext, config: Config) -> None:
    """Shows from now on what is in the files; raises `WrongSetting`, and then nothing changes."""
    cert, key = config.bichat_tls_cert or Path(), config.bichat_tls_key or Path()
    _refuse_unfit(certificate(cert))
    try:
        load_pem_private_key(_read(KEY, key), None)
    except (ValueError, TypeError):  # the latter: it wants a password
        raise WrongSetting(name=KEY, reason=f"{key} holds no PEM key without a password") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        matches = error.reason != "KEY_VALUES_MISMATCH"
        reason = f"cannot be used ({error.reason})" if matches else f"is not the key of {cert}"
        raise WrongSetting(name=KEY, reason=f"{key} {reason}") from None
    context.load_cert_chain(cert, key)


def trusting(cert: Path) -> ssl.SSLContext:
    """Trusts whoever has the key of this one certificate, whatever name was asked for; raises `WrongSetting`.

    Whoever set bichat up on a machine need not have an authority sign for "127.0.0.1".
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Only the first in the file: those after it have signed for others as well.
    context.load_verify_locations(cadata=certificate(cert).public_bytes(Encoding.DER))
    return context


def trusting_too(config: Config) -> ssl.SSLContext:
    """Trusts whom everybody trusts and, if there is one, the API's certificate; names are checked."""
    context = httpx.create_ssl_context()
    if config.bichat_tls_cert:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=certificate(config.bichat_tls_cert).public_bytes(Encoding.DER))
    return context


def certificate(path: Path) -> Certificate:
    """The server's own, the first in the file; raises `WrongSetting`."""
    try:
        return load_pem_x509_certificates(_read(CERT, path))[0]
    except ValueError:
        raise WrongSetting(name=CERT, reason=f"{path} holds no certificate in PEM") from None


def _refuse_unfit(certificate: Certificate) -> None:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        reason = f"the certificate was good until {certificate.not_valid_after_utc:%Y-%m-%d}"
        raise WrongSetting(name=CERT, reason=reason)
    if certificate.not_valid_before_utc > now:
        reason = f"the certificate is good only from {certificate.not_valid_before_utc:%Y-%m-%d} on"
        raise WrongSetting(name=CERT, reason=reason)


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WrongSetting(name=name, reason=f"{path} cannot be read ({error.strerror})") from None
