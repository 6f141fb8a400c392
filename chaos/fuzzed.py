"""R7: the OpenAPI document fuzzed with schemathesis, with a token of every role, and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.stack import Stack, stack
from chaos import fuzzing
from chaos.asking import ask, client, end
from chaos.business import SECRET
from chaos.foreigners import owned
from chaos.provider import KEY, provider
from chaos.routes import ROLES
from chaos.verdict import Verdict
from chaos.world import World

DONE = "the OpenAPI document fuzzed with schemathesis, with and without a token"

CHECKS = (
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "no_foreign_row", "unsupported_method", "ignored_auth",
)  # fmt: skip
"""The document knows of no 5xx but 503."""


def run(world: World, verdict: Verdict) -> None:
    with (
        provider() as model,
        stack(
            world.database(), world.redis_url, model.url, world.scratch / "logs", OPENAI_API_KEY=KEY
        ) as bichat,
    ):
        bichat.up()
        aimed = world.scratch / "aim.json"
        aimed.write_text(json.dumps(aim(bichat)))
        token = bichat.headers("fuzz", roles=[*ROLES])["Authorization"]
        for what, headers, seconds in (
            ("with a token", ["-H", f"Authorization: {token}"], 8 if world.short else 60),
            ("without a token", [], 2 if world.short else 10),
        ):
            report = world.scratch / f"{what}.json"
            done = fuzz(
                world,
                bichat,
                aimed,
                ["--max-time", str(seconds), *headers, "--report-json-path", str(report)],
            )
            world.history.tell("schemathesis", what, said=done.stdout[-6000:])
            verdict.check(done.returncode == 0, f"{what}: {done.stdout[-3000:]} {done.stderr[-500:]}")
        # …
        for process in ("api",):
            verdict.check(bichat.processes[process].poll() is None, f"the {process} is gone")


def aim(bichat: Stack) -> dict[str, list[str]]:
    """Things of one's own, and of another tenant."""
    theirs = owned(bichat)
    with client(bichat, "fuzz") as person:
        asked = [ask(person, "How much?") for _ in range(3)]
        for one in asked:
            end(person, one)
    return {
        "dialogue_id": [*(str(one.dialogue_id) for one in asked), theirs["dialogue_id"]],
        "message_id": [*(str(one.message_id) for one in asked), theirs["message_id"]],
        "hold_id": [theirs["hold_id"]],
        "name": ["system", theirs["name"]],
    }


def fuzz(world: World, bichat: Stack, aimed: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis."""
    verb: list[str | Path] = [
        Path(sys.executable).parent / "schemathesis", "run", f"{bichat.url}/schema/openapi.json",
        "--checks", ",".join(CHECKS), "--seed", str(world.seed), "--no-color", "--warnings", "off",
        "--generation-database", "none", "--request-timeout", "20", "--continue-on-failure",
        "--suppress-health-check", "all", *options,
    ]  # fmt: skip
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": fuzzing.__name__, fuzzing.AIM: str(aimed), fuzzing.FOREIGN: SECRET,
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }  # fmt: skip
    return subprocess.run(
        verb, env=environment, cwd=world.scratch, capture_output=True, text=True, timeout=200, check=False
    )
