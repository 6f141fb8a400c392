"""R6: random histories through two writer processes, in its short version."""

from tests.chaos.line import holds


def test_any_history_adds_up_live_rebuilt_and_folded() -> None:
    holds("R6")
