"""R1: kill -9 of every part, in its short version."""

from tests.chaos.line import holds


def test_nothing_is_lost_or_doubled_whatever_is_killed() -> None:
    holds("R1")
