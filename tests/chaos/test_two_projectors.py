"""R4: two projectors and two builds, one of them stale, in its short version."""

from tests.chaos.line import holds


def test_every_event_is_applied_exactly_once_and_the_stale_are_refused() -> None:
    holds("R4")
