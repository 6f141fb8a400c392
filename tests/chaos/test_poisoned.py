"""R5: what a projector cannot digest, in its short version."""

from tests.chaos.line import holds


def test_what_cannot_be_digested_waits_alone_and_is_caught_up_with_after_the_fix() -> None:
    holds("R5")
