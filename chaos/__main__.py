"""Breaks bichat in every way of the table and judges what held: `make chaos`, `make chaos SEED=7 ONLY=R1,R4`.

Real processes and servers of its own, on loopback; everything is gone afterwards. The seed decides what is
broken when, so the same seed does the same again, as far as processes keep time.
"""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from importlib import import_module

import click
from tabulate import tabulate

from bench.only import only
from chaos.verdict import Verdict
from chaos.world import world

SCENARIOS = {
    "R1": "chaos.killed",
    "R2": "chaos.redis_lost",
    "R3": "chaos.postgres_restarted",
    "R4": "chaos.two_projectors",
    "R5": "chaos.poisoned",
    "R6": "chaos.random_histories",
    "R7": "chaos.fuzzed",
    "R8": "chaos.foreigners",
    "R9": "chaos.misbehaving_model",
    "R10": "chaos.stopped",
    "R11": "chaos.hostile_queries",
}
"""The module of each line: `DONE` says what is done, `run(world, verdict)` does it and checks."""


def tried(name: str, seed: int, *, short: bool) -> Verdict:
    """One line; what stopped it is a promise broken. Its history is printed when something was,
    and the last that each part said."""
    scenario = import_module(SCENARIOS[name])
    verdict = Verdict(id=name, done=scenario.DONE)
    click.echo(f"{name}  {scenario.DONE}  (SEED={seed} ONLY={name})", err=True)
    started = time.monotonic()
    with world(seed, short=short) as here:
        try:
            scenario.run(here, verdict)
        except Exception as error:
            verdict.broken.append(f"it stopped with {type(error).__name__}: {error}")
            traceback.print_exc()
        verdict.seconds = time.monotonic() - started
        if not verdict.held:
            for entry in here.history.entries:
                click.echo(str(entry), err=True)
            for log in sorted(here.scratch.rglob("*.log")):
                said = log.read_text(errors="replace").splitlines()[-12:]
                click.echo("\n".join([f"--- {log.name}", *said]), err=True)
    return verdict


def table(verdicts: list[Verdict]) -> str:
    """What a person reads; what was broken below it."""
    rows = [
        (
            one.id, one.done, ", ".join(f"{what} {n}" for what, n in one.counts.items()), one.checks,
            f"{one.seconds:.0f}", "yes" if one.held else "NO",
        )
        for one in verdicts
    ]  # fmt: skip
    head = ["", "what is done", "seen", "checks", "s", "held"]
    broken = [
        f"{one.id}: {promise}"
        for one in verdicts
        if not one.held
        for promise in one.broken or ["nothing was checked"]
    ]
    return "\n".join(
        [tabulate(rows, headers=head, maxcolwidths=[None, 44, 60, None, None, None]), "", *broken]
    )


@click.command(help=__doc__)
@click.option(
    "--seed",
    type=int,
    default=lambda: secrets.randbelow(10**6),
    help="Of what is broken when; else one is drawn.",
)
@click.option(
    "--only", default="", metavar="R1,R4", callback=only(SCENARIOS), help="These lines; else all of them."
)
@click.option("--short", is_flag=True, help="As `make test` does it: fewer clients, less time.")
def main(seed: int, only: list[str], short: bool) -> None:
    click.echo(f"SEED={seed}", err=True)
    verdicts = [tried(name, seed, short=short) for name in only]
    click.echo(table(verdicts))
    click.echo(f"\nSEED={seed}")
    sys.exit(not all(one.held for one in verdicts))


if __name__ == "__main__":
    main()
