"""R7: the OpenAPI document fuzzed, in its short version."""

from tests.chaos.line import holds


def test_every_answer_is_in_the_document_and_none_is_anothers() -> None:
    holds("R7")
