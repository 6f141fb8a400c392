"""R8: who may not, at every route and function, in its short version."""

from tests.chaos.line import holds


def test_what_is_anothers_is_not_told_from_what_never_was() -> None:
    holds("R8")
