"""R11: queries that nobody may run, in its short version."""

from tests.chaos.line import holds


def test_no_query_writes_reads_anothers_runs_for_ever_or_fills_the_memory() -> None:
    holds("R11")
