"""`bichat prompts`: an operator lists, shows, writes and takes away a tenant's prompts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from bichat.cli import bichat
from bichat.doorbell import Doorbell
from bichat.events.prompt import stream_of
from bichat.prompts import BUILT_IN
from tests.examples import MASTER_KEY, OTHER_TENANT, TENANT
from tests.workers.world import world


@pytest.fixture(scope="module")
def environ(
    module_database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """What an operator has, while a projector runs."""
    doorbell = Doorbell(redis_url)
    with world(module_database_url, redis_url, "http://127.0.0.1:9/v1", doorbell):
        yield {
            "DATABASE_URL": module_database_url,
            "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
            "BICHAT_DATA_DIR": str(tmp_path_factory.mktemp("cli") / "data"),
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        }
    doorbell.close()


def run(environ: dict[str, str], *words: str, given: str | None = None, tenant: Any = TENANT) -> Result:
    return CliRunner().invoke(
        bichat, ["prompts", words[0], "--tenant", str(tenant), *words[1:]], env=environ, input=given
    )


def told(environ: dict[str, str], *words: str, tenant: Any = TENANT) -> Any:
    done = run(environ, *words, "--json", tenant=tenant)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_prompt_from_its_first_text_to_its_end(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "weekly.txt"
    file.write_text("Week {{ week }}\n")
    assert run(environ, "set", "weekly", str(file)).stdout == "weekly is at version 1\n"
    assert (
        run(environ, "set", "weekly", "-", given="Week no. {{ week }}").stdout == "weekly is at version 2\n"
    )
    assert run(environ, "show", "weekly").stdout == "Week no. {{ week }}\n"
    assert run(environ, "show", "weekly", "--version", "1").stdout == "Week {{ week }}\n\n"
    whole = told(environ, "show", "weekly")
    assert [(one["version"], one["author"]) for one in whole["versions"]] == [
        (2, "operator"), (1, "operator"),
    ]  # fmt: skip
    assert [(one["name"], one["version"]) for one in told(environ, "list")] == [("weekly", 2)]
    assert told(environ, "list", tenant=OTHER_TENANT) == []
    assert run(environ, "list").stdout.split()[:4] == ["name", "version", "changed", "author"]
    assert run(environ, "remove", "weekly").stdout == "weekly is gone since version 3\n"
    assert "no such prompt" in str(run(environ, "show", "weekly").exception)
    assert told(environ, "list") == []
    assert "system is the built-in one" in run(environ, "list").stderr


def test_the_system_prompt_is_always_there(environ: dict[str, str]) -> None:
    assert run(environ, "show", "system").stdout.strip() == BUILT_IN.text
    assert run(environ, "set", "system", "-", given="Be {{ brief }}.").exit_code == 0
    assert run(environ, "show", "system").stdout == "Be {{ brief }}.\n"
    assert run(environ, "remove", "system").exit_code == 0
    assert told(environ, "show", "system")["built_in"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("Weekly", "x", "name: must be 1 to 64 of a-z"),
        ("weekly", "Dear\n{{ name", "template: line 2: "),
        ("weekly", "x" * 100_001, "longer than 100,000 characters"),
        ("weekly", " ", "must not be blank"),
        ("system", "word " * 9_000, "the system prompt may take 4,000 here"),
    ],
)
def test_what_is_no_prompt_is_refused(environ: dict[str, str], name: str, text: str, why: str) -> None:
    refused = run(environ, "set", name, "-", given=text)
    assert refused.exit_code == 1
    assert why in str(refused.exception)


def test_a_forged_prompt_breaks_the_proof_of_the_log(environ: dict[str, str]) -> None:
    assert run(environ, "set", "forged", "-", given="Be brief.").exit_code == 0
    right = CliRunner().invoke(bichat, ["audit", "verify"], env=environ)
    assert right.exit_code == 0, right.output
    stream_id = stream_of(TENANT, "forged")
    with psycopg.connect(environ["DATABASE_URL"]) as connection:
        connection.execute(
            "update bichat.stored_events set state = convert_to(replace(convert_from(state, 'UTF8'),"
            " 'brief', 'cruel'), 'UTF8') where originator_id = %s",
            (stream_id,),
        )
    wrong = CliRunner().invoke(bichat, ["audit", "verify"], env=environ)
    assert wrong.exit_code == 1
    assert str(stream_id) in wrong.output
