"""R3: Postgres restarted and connections cut, in its short version."""

from tests.chaos.line import holds


def test_no_process_has_to_be_started_again_after_postgres_was() -> None:
    holds("R3")
