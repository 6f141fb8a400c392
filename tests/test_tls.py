"""TLS over real sockets: who is trusted, which versions are spoken, and what stops the start."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from llmock.pytest_plugin import LLMock

from bichat import probe, tls
from bichat.config import Config
from bichat.errors.unusable import WrongSetting
from tests.api.conftest import Api, served
from tests.api.tokens import SECRET
from tests.certificates import self_signed
from tests.test_cli import Serve, environ, free_port, run

__all__ = ["environ"]


def files(cert: Path, key: Path) -> Config:
    return Config(bichat_tls_cert=cert, bichat_tls_key=key)


def other_key(here: Path) -> Config:
    return files(self_signed(here / "one")[0], self_signed(here / "other")[1])


def no_pem(here: Path) -> Config:
    cert, key = self_signed(here)
    cert.write_text("a certificate")
    return files(cert, key)


def no_key(here: Path) -> Config:
    cert, key = self_signed(here)
    key.write_bytes(cert.read_bytes())
    return files(cert, key)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            lambda here: files(here / "none.pem", here / "key.pem"),
            "BICHAT_TLS_CERT: .*none.pem cannot be read",
        ),
        (lambda here: files(self_signed(here)[0], here / "none.pem"), "BICHAT_TLS_KEY: .* cannot be read"),
        (no_pem, "BICHAT_TLS_CERT: .* holds no certificate in PEM"),
        (no_key, "BICHAT_TLS_KEY: .* holds no PEM key without a password"),
        (lambda here: files(*self_signed(here, password=b"p")), "BICHAT_TLS_KEY: .* without a password"),
        (other_key, "BICHAT_TLS_KEY: .* is not the key of .*certificate.pem"),
        (lambda here: files(*self_signed(here, days=(-2, -1))), "BICHAT_TLS_CERT: .* was good until"),
        (lambda here: files(*self_signed(here, days=(1, 2))), "BICHAT_TLS_CERT: .* good only from"),
    ],
)
def test_what_cannot_be_shown_stops_the_start_with_one_line(
    made: Callable[[Path], Config], told: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongSetting, match=told) as refusal:
        tls.serving(made(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.fixture
def secure(module_database_url: str, redis_url: str, tmp_path: Path) -> Iterator[tuple[Api, Config]]:
    """The API with a certificate of its own."""
    cert, key = self_signed(tmp_path)
    config = Config(
        database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET,
        bichat_tls_cert=cert, bichat_tls_key=key,
    )  # fmt: skip
    with served(config) as api:
        yield api, config


def test_who_trusts_the_certificate_is_served_and_nobody_without_tls(
    secure: tuple[Api, Config], tmp_path: Path
) -> None:
    (api, config), port = secure, int(secure[0].url.rpartition(":")[2])
    assert config.bichat_tls_cert
    trust = tls.trusting(config.bichat_tls_cert)
    assert httpx.get(f"{api.url}/health/live", verify=trust).json() == {"status": "ok"}
    assert httpx.get(f"https://localhost:{port}/health/live", verify=tls.trusting_too(config)).is_success
    other, _ = self_signed(tmp_path / "other")
    for stranger in (tls.trusting(other), httpx.create_ssl_context()):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{api.url}/health/live", verify=stranger)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/health/live")


def spoken(port: int, highest: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or this side would refuse what is old by itself
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, highest
    with socket.create_connection(("127.0.0.1", port)) as line, context.wrap_socket(line) as secured:
        return secured.version()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_are_not_spoken(secure: tuple[Api, Config]) -> None:
    port = int(secure[0].url.rpartition(":")[2])
    assert spoken(port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert spoken(port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        spoken(port, ssl.TLSVersion.TLSv1_1)


def test_serve_chat_and_health_work_with_a_certificate_which_is_renewed_without_a_pause(
    environ: dict[str, str], llmock: LLMock, tmp_path: Path
) -> None:
    cert, key = self_signed(tmp_path / "tls")
    settings = {
        **environ, "BICHAT_PORT": str(free_port()), "OPENAI_BASE_URL": llmock.base_url("openai"),
        "OPENAI_API_KEY": "x", "BICHAT_TLS_CERT": str(cert), "BICHAT_TLS_KEY": str(key),
        "BICHAT_AUTO_LABEL": "off",
        "BICHAT_FUNCTIONS": "off",
    }  # fmt: skip
    llmock.reply("Paris, of course.", times=None)
    serving = Serve(settings, tmp_path / "serve.log")
    try:
        said = serving.until_said("Ctrl-C")
        assert f"bichat answers at https://127.0.0.1:{settings['BICHAT_PORT']}" in said
        assert run(settings, "health").stdout == "ok\n"
        # Knows by itself where, and by which certificate: it need not be told.
        talk = run(environ, "chat", "What is the capital of France?")
        assert (talk.returncode, talk.stdout.strip()) == (0, "Paris, of course."), talk.stderr
        first = shown(settings)
        self_signed(tmp_path / "tls", "renewed.example")
        os.kill(serving.children()["api"], signal.SIGHUP)
        serving.until(lambda: shown(settings) != first, seconds=10)
        assert run(settings, "health").stdout == "ok\n"
        key.write_text("broken")
        os.kill(serving.children()["api"], signal.SIGHUP)
        serving.until_said("the certificate stays as it was: BICHAT_TLS_KEY")
        assert run(settings, "health").stdout == "ok\n"
    finally:
        serving.process.terminate()
        serving.process.wait(15)
    done = run(settings, "health")
    assert (done.returncode, done.stdout) == (1, "")
    assert "bichat is not ready at https://127.0.0.1:" in done.stderr


def shown(settings: dict[str, str]) -> str:
    return ssl.get_server_certificate(("127.0.0.1", int(settings["BICHAT_PORT"])))


def test_where_it_is_reached_on_this_machine() -> None:
    config = Config(bichat_host="::", bichat_port=1, bichat_tls_cert=Path("c"))
    assert probe.address(config) == "https://[::1]:1"
    assert probe.address(Config(bichat_host="0.0.0.0")) == "http://127.0.0.1:8000"
