"""R7: the OpenAPI document fuzzed with schemathesis, with a token of every role, and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


SHORT = (("a token", "fuzzing", ["--max-examples", "1"]), ("none", "fuzzing", ["--max-examples", "1"]))
LONG = (
    ("a token", "fuzzing", ["--max-examples", "15"]),
    ("a token", "stateful", ["--max-time", "20"]),
    ("none", "fuzzing", ["--max-examples", "3"]),
)
"""Runs of schemathesis: as whom, which of its phases, and how much of it."""


def run(world: World, verdict: Verdict) -> None:
    with (
        provider() as model,
        stack(world.database(), world.redis_url, model.url, world.scratch / "logs", OPENAI_API_KEY=KEY,
              BICHAT_MAX_MESSAGE_CHARS="300") as bichat,
    ):  # fmt: skip
        bichat.up()
        fuzzer = Fuzzer(world, bichat)
        for whose, phase, options in SHORT if world.short else LONG:
            done, report = fuzzer.run(whose, phase, options)
            world.history.tell("schemathesis", f"{phase} with {whose}", said=done.stdout)
            verdict.check(done.returncode == 0, f"{phase} with {whose}: {failures(done)}")
            tested, known = (report["operations"][name] for name in ("tested", "selected"))
            # What has a bound in time may not come to all of them.
            verdict.check(tested == known or "--max-time" in options, f"{tested} of {known} were tried")
            made = report["test_cases"]["generated"]
            verdict.check(made > 0, f"{phase} with {whose} tried nothing")
            verdict.counts[f"{phase}, {whose}"] += made
        verdict.check(bichat.processes["api"].poll() is None, "the api is gone")
        errors = [line for line in (bichat.logs / "api.log").read_text().splitlines() if " ERROR " in line]
        verdict.check(not errors, f"the api met {errors[:5]}")


def failures(done: subprocess.CompletedProcess[str]) -> str:
    """What schemathesis says went wrong, with how to do it again."""
    return done.stdout.partition("= FAILURES =")[2][:4000] or done.stdout[-1000:] + done.stderr[-1000:]


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


class Fuzzer:
    """Starts schemathesis, which knows what is there to aim at."""

    def __init__(self, world: World, bichat: Stack) -> None:
        self._world, self._bichat, self._aim = world, bichat, world.scratch / "aim.json"
        self._aim.write_text(json.dumps(aim(bichat)))

    def run(
        self, whose: str, phase: str, options: list[str]
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """One run, and its report."""
        report = self._world.scratch / "report.json"
        header = self._bichat.headers("fuzz", roles=[*ROLES])["Authorization"]
        verb: list[str | Path] = [
            Path(sys.executable).parent / "schemathesis", "run", f"{self._bichat.url}/schema/openapi.json",
            *(("-H", f"Authorization: {header}") if whose == "a token" else ()), "--phases", phase, *options,
            "--checks", ",".join(CHECKS), "--seed", str(self._world.seed), "--no-color", "--warnings", "off",
            "--generation-database", "none", "--request-timeout", "20", "--continue-on-failure",
            "--suppress-health-check", "all", "--report-json-path", report,
        ]  # fmt: skip
        environment = os.environ | {
            "SCHEMATHESIS_HOOKS": fuzzing.__name__, fuzzing.AIM: str(self._aim), fuzzing.FOREIGN: SECRET,
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }  # fmt: skip
        done = subprocess.run(
            verb, env=environment, cwd=self._world.scratch, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        return done, json.loads(report.read_text())
