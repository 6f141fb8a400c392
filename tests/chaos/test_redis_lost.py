"""R2: Redis emptied and away, in its short version."""

from tests.chaos.line import holds


def test_everything_goes_on_without_redis() -> None:
    holds("R2")
