"""R10: SIGTERM under load, in its short version."""

from tests.chaos.line import holds


def test_whoever_is_told_to_stop_loses_nobodys_place() -> None:
    holds("R10")
