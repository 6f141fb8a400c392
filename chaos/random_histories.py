"""R6: random histories of commands, by hypothesis, through two writer processes on the same streams."""

from __future__ import annotations

import traceback

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from bench.place import MASTER_KEY, NO_MODEL
from bench.stack import Stack, stack
from bichat.events import schema
from bichat.events.ledger import Ledger
from bichat.projections import versions
from bichat.projections.processes import Database, Pool
from bichat.projections.verify import verify
from chaos.asking import log
from chaos.histories import Histories
from chaos.verdict import Verdict
from chaos.world import World
from chaos.writers import Writer, writers

DONE = "random histories of commands, two writer processes on the same streams"


def run(world: World, verdict: Verdict) -> None:
    with stack(world.database(), world.redis_url, NO_MODEL, world.scratch / "logs") as bichat:
        migrated = bichat.verb("migrate")
        verdict.check(migrated.returncode == 0, migrated.stderr)
        bichat.start("projector", "projector")
        with log(bichat.database_url) as ledger, writers(bichat.database_url, 2) as two:
            told = broken(world, ledger, two)
        verdict.check(not told, told)
        everything(bichat, verdict)
        built = bichat.verb("projections", "rebuild", "--all", timeout=120)
        verdict.check(built.returncode == 0, f"rebuilt and live differ: {built.stdout}{built.stderr}")
        everything(bichat, verdict)
        verdict.check(verdict.counts["builds verified"] > 10, "what was rebuilt was not compared")


def broken(world: World, ledger: Ledger, two: list[Writer]) -> str:
    """Why a history does not add up, with its steps, shrunk; nothing when they all do."""
    machine = type("TheseHistories", (Histories,), {"writers": two, "ledger": ledger})
    asked = settings(
        max_examples=8 if world.short else 25,
        stateful_step_count=25 if world.short else 40,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(hypothesis.seed(world.seed)(machine), settings=asked)
    except Exception as error:
        steps = "\n".join(getattr(error, "__notes__", ()))
        return f"{''.join(traceback.format_exception_only(error))}\n{steps}"
    return ""


def everything(bichat: Stack, verdict: Verdict) -> None:
    """Every build is the fold of the log, and every chain verifies."""
    proven = bichat.verb("audit", "verify", timeout=120)
    verdict.check(proven.returncode == 0, f"{proven.stdout}{proven.stderr}")
    database = Database(url=bichat.database_url, keys_url=bichat.database_url, master_key=MASTER_KEY)
    with schema.connect(bichat.database_url) as connection:
        builds = versions.followed(connection)
        [events] = connection.execute("select count(*) from bichat.stored_events").fetchone() or (0,)
    verdict.counts["events"] = events
    pool = Pool(database, 0)
    for report in verify(database, builds, pool, lambda *_: None):
        verdict.check(report.valid, f"{report.build} differs from the log: {report.finding}")
        verdict.check(not report.parked, f"{report.build} has parked {report.parked}")
        verdict.counts["builds verified"] += 1
    pool.close()
