"""Every command-line verb."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click

from bichat import __version__, config, embedded, logs
from bichat.cli import proof  # noqa: F401 - adds verbs to `audit`
from bichat.cli.audit import audit
from bichat.cli.backup import backup, restore
from bichat.cli.erasure import erase, holds
from bichat.cli.keys import keys
from bichat.cli.projections import projections
from bichat.cli.prompts import prompts
from bichat.cli.replies import replies
from bichat.cli.rotation import rotate
from bichat.cli.search import search
from bichat.cli.usage import usage
from bichat.config import Config
from bichat.errors import BichatError
from bichat.errors.unusable import NobodyServes, NotReady, WrongSetting
from bichat.terminal import line

LOCAL_TENANT = UUID("00000000-0000-7000-8000-000000000001")
"""Whose dialogues `serve` and `chat` show on one's own machine."""
LOCAL_USER = "me"
_DAY = 24 * 60 * 60
_STORES = ("database_url", "redis_url")

log = logging.getLogger(__name__)


def main() -> None:
    """The program: exit status 0 done, 1 refused or failed with one line, 2 wrong usage."""
    logs.begin()
    try:
        bichat()
    except BichatError as error:
        click.echo(f"bichat: {line(str(error), 1000)}", err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def bichat() -> None:
    """The memory and the nerve of business-intelligence chat.

    Settings are environment variables (README.md lists them). Without DATABASE_URL, REDIS_URL and
    OPENAI_API_KEY, bichat brings a Postgres, a Valkey and a small model along and keeps what they
    store in BICHAT_DATA_DIR, .bichat if not set.
    """


@bichat.command()
def serve() -> None:
    """Run everything; prints where, a token and a curl line."""
    from bichat import supervisor

    supervisor.serve(_can_check_tokens(embedded.with_secrets(config.load())), _welcome)


@bichat.command()
def api() -> None:
    """Run the HTTP API."""
    from bichat import probe, wiring

    with _settings(*_STORES) as settings:
        log.info("The API starts at %s", probe.address(_can_check_tokens(settings)))
        wiring.run_api(settings)


@bichat.command()
def worker() -> None:
    """Run what has questions answered by the model."""
    from bichat import wiring

    with _settings(*_STORES, "openai_base_url") as settings:
        model = settings.bichat_model or config.DEFAULT_MODEL
        log.info("The worker starts, %s answers", "no model" if settings.brings_model else model)
        wiring.run_worker(settings)


@bichat.command()
def projector() -> None:
    """Run what keeps the read models up to date.

    A second one stands by until the first one ends.
    """
    from bichat import wiring

    with _settings(*_STORES) as settings:
        log.info("The projector starts: it follows the log, or stands by while another one does")
        wiring.run_projector(settings)


@bichat.command()
def migrate() -> None:
    """Create or update the schema."""
    from bichat import wiring

    with embedded.attached_or_owned(config.load(), "database_url") as settings:
        for name in wiring.migrate(settings):
            click.echo(name)
        if missing := wiring.missing(settings):
            click.echo(f"To be filled before it is used: bichat projections rebuild {missing}", err=True)


@bichat.command()
def health() -> None:
    """Ask the API on this machine whether it is ready; exit status 1 if it is not.

    With the settings that the API was started with: for who watches over it.
    """
    from bichat import probe

    settings = config.load()
    if not probe.answers(settings, "/health/ready"):
        raise NotReady(url=probe.address(settings))
    click.echo("ok")


@bichat.command()
@click.option("--tenant", type=click.UUID, required=True, help="The tenant's id.")
@click.option("--user", required=True, help="The user's id, at most 128 characters.")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(["user", "auditor", "ops", "operator"]),
    help="May be given several times; user if not given.",
)  # fmt: skip
@click.option(
    "--ttl", type=click.IntRange(1, 10 * 365 * _DAY), default=3600, show_default=True, help="Seconds."
)
def token(tenant: UUID, user: str, roles: tuple[str, ...], ttl: int) -> None:
    """Print a token, signed with BICHAT_JWT_SECRET."""
    if not 1 <= len(user) <= 128 or not user.isprintable():
        raise click.BadParameter("must have 1 to 128 printable characters", param_hint="--user")
    click.echo(_token(embedded.with_secrets(config.load()), tenant, user, roles or ("user",), ttl))


@bichat.command()
@click.argument("message", required=False)
@click.option("--url", envvar="BICHAT_URL", help="Where bichat answers (BICHAT_URL).")
@click.option("--token", envvar="BICHAT_TOKEN", help="Who you are (BICHAT_TOKEN).")
def chat(message: str | None, url: str | None, token: str | None) -> None:
    """Talk in the terminal.

    With a MESSAGE, one answer; without, a conversation until Ctrl-D. Without --url, with the
    `bichat serve` that runs on this machine in the same data directory.
    """
    from bichat import chat as terminal
    from bichat import tls

    settings = config.load()
    cert = None
    if not url:
        url, cert = embedded.api(settings)
        if not url:
            raise NobodyServes
        token = token or _token(embedded.with_secrets(settings), LOCAL_TENANT, LOCAL_USER, ("user",), _DAY)
    if not token:
        raise WrongSetting(name="BICHAT_TOKEN", reason="is missing: set it, or give --token")
    sys.exit(terminal.run(url, token, message, tls.trusting(cert) if cert else tls.trusting_too(settings)))


bichat.add_command(audit)
bichat.add_command(backup)
bichat.add_command(restore)
bichat.add_command(erase)
bichat.add_command(holds)
bichat.add_command(keys)
keys.add_command(rotate)
bichat.add_command(projections)
bichat.add_command(prompts)
bichat.add_command(replies)
bichat.add_command(search)
bichat.add_command(usage)


@contextmanager
def _settings(*needed: str) -> Iterator[Config]:
    """The settings of a part, with servers of our own for what is `needed` and not given."""
    given = config.load()
    logs.begin(given.bichat_log)
    if given.database_url:  # so this is no trial, and what else is missing was forgotten
        if given.brings_redis:
            log.warning("REDIS_URL is not set: other parts do not hear this one's private Valkey")
        if given.brings_model and "openai_base_url" in needed:
            log.warning("OPENAI_API_KEY and OPENAI_BASE_URL are not set: only a small toy model can answer")
    with embedded.attached_or_owned(given, *needed) as settings:
        yield settings


def _token(settings: Config, tenant: UUID, user: str, roles: tuple[str, ...], ttl: int) -> str:
    import jwt

    secret = settings.bichat_jwt_secret
    if not secret:
        raise WrongSetting(name="BICHAT_JWT_SECRET", reason="is needed to make tokens")
    claims: dict[str, object] = {
        "sub": user,
        "tenant": str(tenant),
        "roles": roles,
        "exp": int(time.time()) + ttl,
    }
    if settings.bichat_jwt_issuer:
        claims["iss"] = settings.bichat_jwt_issuer
    if settings.bichat_jwt_audience:
        claims["aud"] = settings.bichat_jwt_audience
    return jwt.encode(claims, secret, "HS256")


def _can_check_tokens(settings: Config) -> Config:
    if not settings.bichat_jwt_secret and not settings.bichat_jwt_public_key:
        raise WrongSetting(name="BICHAT_JWT_SECRET", reason="must be given when DATABASE_URL is")
    return settings


def _welcome(settings: Config, url: str) -> None:
    click.echo(f"bichat answers at {url}: open {url}/bi-chat, try {url}/schema, `bichat chat`, or")
    if settings.bichat_jwt_secret:
        made = _token(settings, LOCAL_TENANT, LOCAL_USER, ("user",), _DAY)
        trust = f" --cacert {shlex.quote(str(settings.bichat_tls_cert))}" if settings.serves_https else ""
        click.echo(_TRY.format(token=made, url=url, trust=trust))
    if settings.brings_model:
        click.echo(
            "There is no model to answer: start again with OPENAI_API_KEY or OPENAI_BASE_URL.", err=True
        )
    click.echo("Ctrl-C stops it.")


_TRY = """
  {url}/bi-chat#token={token}

  TOKEN={token}
  curl -sSN{trust} {url}/v1/dialogues -H "Authorization: Bearer $TOKEN" \\
    -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\
    -d '{{"message": "What is photosynthesis?"}}'
"""
