"""R9: a provider that misbehaves in every way, in its short version."""

from tests.chaos.line import holds


def test_every_question_ends_once_and_is_paid_for() -> None:
    holds("R9")
